"""The process that holds one model: opens its ciphertext in memory, proves it, runs it. Talks to the agent by one socket."""
