"""One TOML per board: the only place where a board is described. This file only makes the folder findable when installed."""
