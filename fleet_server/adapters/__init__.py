"""Everything that touches files, processes or the network on the server's behalf."""
