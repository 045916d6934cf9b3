"""The contract between model_compiler, fleet_server and edge_agent. Pure: no I/O, no clock, no configuration (SPEC.md)."""
