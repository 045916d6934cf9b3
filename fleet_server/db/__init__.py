"""The registry's tables and how they are reached."""
