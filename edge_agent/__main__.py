"""``python -m edge_agent``: the same as the program ``edge-agent``."""

from edge_agent.cli import main

main(prog_name="edge-agent")
