"""What else a device in the field meets: wrong clocks, disks that refuse, files that rotted. Each on a copy of a real disk."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

from edge_agent.adapters import slots
from fleet_protocol.states import DeploymentState
from tests.agent.test_delivery_resume import no_file_beyond
from tests.agent.tuf_world import NOW, Device
from tests.reliability.power import Laboratory

S = DeploymentState
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Seen:
    """``during``: what happened while it lasted; ``after``: once it was over."""

    during: str
    after: str
    is_well: bool


def clock_1970(laboratory: Laboratory) -> Seen:
    device = laboratory.device(laboratory.copy(), unix=0.0).start().run(12)
    return _seen(device, f"reports carry {device.last.at:.0f}", device.last.at >= NOW)


def clock_20_years_ahead(laboratory: Laboratory) -> Seen:
    device = laboratory.device(laboratory.copy(), unix=NOW + 20 * 365.25 * _DAY).start().run(12)
    during, was_well = f"{device.refusal}, {device.serves} serves", device.refusal == "expired-metadata"
    was_well &= device.serves == "1.0.0" and device.journal.remembered.time_s < NOW + _DAY
    device.clock.unix = NOW + 100.0
    device.link.cut()
    device.link.connect()
    return _seen(device.run(12), during, was_well)


def read_only_disk(laboratory: Laboratory) -> Seen:
    """As a kernel that found errors remounts it under a running agent."""
    device = laboratory.device(laboratory.copy()).start()
    device.journal._database.execute("PRAGMA query_only=ON")
    device.run(5)
    during, was_well = f"{device.serves} serves, nothing accepted", device.serves == "1.0.0"
    was_well &= device.journal.remembered.seq < laboratory.world.seq
    device.journal._database.execute("PRAGMA query_only=OFF")
    return _seen(device.run(25), during, was_well)


def disk_that_fails_in_the_download(laboratory: Laboratory) -> Seen:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    device = laboratory.device(laboratory.copy())
    with mock.patch.object(slots.os, "pwrite", refuse):
        device.start().run(5)
    during = f"{device.last.state} {device.last.code}, {device.serves} serves"
    was_well = (device.last.state, device.serves) == (S.FAILED, "1.0.0")
    laboratory.world.broker.retain("edgefleet/v1/d/cam-7/down/assignment", laboratory.again())
    return _seen(device.run(12), during, was_well)


def full_disk(laboratory: Laboratory) -> Seen:
    device = laboratory.device(laboratory.copy())
    with no_file_beyond(400_000):
        device.start().run(5)
    during = f"{device.last.state} {device.last.code}, {device.serves} serves"
    was_well = (device.last.code, device.serves) == ("disk-full", "1.0.0")
    laboratory.world.broker.retain("edgefleet/v1/d/cam-7/down/assignment", laboratory.again())
    return _seen(device.run(12), during, was_well)


def corrupt_journal(laboratory: Laboratory) -> Seen:
    state = laboratory.copy()
    _zero_half(state / "journal.db")
    return _restarted(laboratory, state)


def corrupt_rows(laboratory: Laboratory) -> Seen:
    state = laboratory.copy()
    with sqlite3.connect(state / "journal.db") as database:
        database.execute("UPDATE execution SET body = x'00ff'")
        database.execute("INSERT OR REPLACE INTO model VALUES ('textline', 'previous', x'7b')")
    database.close()
    return _restarted(laboratory, state)


def corrupt_second_copy(laboratory: Laboratory) -> Seen:
    state = laboratory.copy()
    _zero_half(state / "second-copy")
    return _restarted(laboratory, state)


def corrupt_spool(laboratory: Laboratory) -> Seen:
    state = laboratory.copy()
    _zero_half(state / "spool.db")
    return _restarted(laboratory, state)


HAZARDS: Final[Mapping[str, Callable[[Laboratory], Seen]]] = {
    "clock at 1970": clock_1970,
    "clock 20 years ahead": clock_20_years_ahead,
    "disk read-only under the journal": read_only_disk,
    "disk read-only in the download": disk_that_fails_in_the_download,
    "disk full": full_disk,
    "journal half zeroed": corrupt_journal,
    "journal rows unreadable": corrupt_rows,
    "second copy half zeroed": corrupt_second_copy,
    "spool half zeroed": corrupt_spool,
}


def _restarted(laboratory: Laboratory, state: Path) -> Seen:
    device = laboratory.device(state)
    device.runner.boot()
    during, was_well = f"{device.serves} served at boot", device.serves == "1.0.0"
    device.link.connect()
    return _seen(device.run(12), during, was_well)


def _seen(device: Device, during: str, was_well: bool) -> Seen:
    after = f"{device.last.state} serving {device.serves}"
    is_well = was_well and (device.last.state, device.serves) == (S.COMMITTED, "2.0.0")
    device.close()
    return Seen(during, after, is_well)


def _zero_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes(len(content) // 2) + content[len(content) // 2 :])
