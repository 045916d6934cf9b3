"""``python -m edge_agent.worker SOCKET FRAMES``: the numbers of two inherited descriptors; started by the agent only."""

from __future__ import annotations

import socket
import sys

from edge_agent.worker.isolation import isolate


def main() -> None:
    """Give up rights, then serve."""
    isolate()
    # Imported after: nothing of this process may ever reach a core or a file, whatever an import does.
    from edge_agent.worker.service import serve

    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))


if __name__ == "__main__":
    main()
