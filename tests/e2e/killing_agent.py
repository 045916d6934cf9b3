"""edge-agent, except that it is killed (SIGKILL) right after its n-th journal commit: ``killing_agent.py N COUNT_FILE run …``.

The count is found by wrapping the one method through which every journal write goes, so no write can be forgotten.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_agent import journal
from edge_agent.cli import main

KILL_AFTER, COUNT_FILE = int(sys.argv[1]), Path(sys.argv[2])
_commit = journal.Journal._commit
_numbers = itertools.count(1)


def commit_and_maybe_die(self: journal.Journal, statements: Sequence[Any]) -> None:
    _commit(self, statements)
    number = next(_numbers)
    COUNT_FILE.write_text(str(number))
    if number == KILL_AFTER:
        os.kill(os.getpid(), signal.SIGKILL)


journal.Journal._commit = commit_and_maybe_die  # type: ignore[method-assign]
main(args=sys.argv[3:], prog_name="edge-agent")
