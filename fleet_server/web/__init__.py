"""The server as people and programs see it: JSON API, pages, live events."""
