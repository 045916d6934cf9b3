"""What the server does, one file per noun; each takes its collaborators as arguments and names no adapter."""
