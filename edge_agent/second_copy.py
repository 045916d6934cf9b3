"""A second copy of what a device must never lose, in one small file of its own (SPEC 6.4).

One damaged file, the journal or this one, loses neither the floors nor the models that run.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from edge_agent import records
from edge_agent.errors import DamagedJournal
from edge_agent.files import write_durably

_LOG: Final = logging.getLogger(__name__)


class SecondCopy:
    """The file at ``path``: a checksum and the :class:`~edge_agent.records.Remembered` behind it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> records.Remembered | None:
        """What was written last; None where there is no file. Raises DamagedJournal."""
        try:
            return records.decode(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedJournal(f"the second copy cannot be read: {error}") from error

    def write(self, remembered: records.Remembered) -> None:
        """Replace the file, durably. Where that fails the journal still has everything, so the device goes on."""
        try:
            write_durably(self._path, records.encode(remembered))
        except OSError as error:
            _LOG.warning("second_copy.not_written detail=%s", error)
