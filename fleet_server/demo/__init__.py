"""``fleet-server demo``: the whole path on one machine with real parts, every program as its own process."""
