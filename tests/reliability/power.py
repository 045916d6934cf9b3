"""A device whose power can go after every durable act, and which then really loses what was not synced.

The acts are not listed by hand: ``os`` is watched where the agent's file adapters use it (``edge_agent.files``,
``edge_agent.adapters.slots``), with ``Path.replace`` and ``Path.unlink``, the journal's one place that writes, and the spool.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

from edge_agent import files
from edge_agent.adapters import slots
from edge_agent.adapters.slots import SYNC_CHUNKS
from edge_agent.journal import Journal
from edge_agent.ports import BakeWindow
from edge_agent.second_copy import SecondCopy
from edge_agent.spool import SqliteSpool
from fleet_protocol import envelope
from fleet_protocol.states import DeploymentState
from tests.agent.tuf_world import GOOD_BAKE, SLOT, Clock, Device, SimulatedInference, World

S = DeploymentState
BAD_BAKE: Final = BakeWindow(0, 100, None, is_alive=True)


class PowerCut(BaseException):
    """Nothing after this point happens."""


@dataclass
class Disk:
    """Counts durable acts, cuts the power after number ``dies_after``, and knows which bytes are not synced yet."""

    dies_after: int = 1_000_000
    acts: list[str] = field(default_factory=list)
    _paths: dict[int, Path] = field(default_factory=dict)
    _unsynced: dict[Path, list[tuple[int, bytes]]] = field(default_factory=dict)
    _new: set[Path] = field(default_factory=set)

    def act(self, name: str) -> None:
        if len(self.acts) >= self.dies_after:
            return  # the power is gone; what still runs are this process's own hands
        self.acts.append(name)
        if len(self.acts) == self.dies_after:
            raise PowerCut

    def lose_what_was_not_synced(self) -> None:
        for path, regions in self._unsynced.items():
            if path.exists():
                with path.open("r+b") as file:
                    for offset, before in reversed(regions):
                        file.seek(offset)
                        file.write(before)
        for path in self._new:
            if path.exists():
                os.truncate(path, 0)

    # --- what edge_agent.files and edge_agent.adapters.slots call -----------------------------------------------------
    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        self._paths[descriptor] = Path(path)
        if flags & os.O_TRUNC:
            self._new.add(Path(path))
            self.act(f"create {kind(path)}")
        return descriptor

    def posix_fallocate(self, descriptor: int, offset: int, length: int) -> None:
        os.posix_fallocate(descriptor, offset, length)
        self.act(f"reserve {kind(self._paths[descriptor])}")

    def ftruncate(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)
        self.act(f"truncate {kind(self._paths[descriptor])}")

    def pwrite(self, descriptor: int, content: bytes, offset: int) -> int:
        path = self._paths[descriptor]
        before = os.pread(descriptor, len(content), offset)
        written = os.pwrite(descriptor, content, offset)
        self._unsynced.setdefault(path, []).append((offset, before))
        self.act(f"write {kind(path)}")
        return written

    def fdatasync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)
        self._synced(self._paths[descriptor])

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        self._synced(self._paths[descriptor])

    def _synced(self, path: Path) -> None:
        self._unsynced.pop(path, None)
        self._new.discard(path)
        self.act(f"sync {kind(path)}")

    def moved(self, path: Path, target: Path) -> None:
        if path in self._new:
            self._new.remove(path)
            self._new.add(target)
        if path in self._unsynced:
            self._unsynced[target] = self._unsynced.pop(path)
        self.act(f"rename {kind(path)}")


def kind(path: Path) -> str:
    """What a file is to a person: its ending where its name is a digest."""
    return "folder" if path.is_dir() else path.suffix if path.suffix in {".part", ".map", ".blob"} else path.name


@contextlib.contextmanager
def watched(disk: Disk) -> Iterator[None]:
    """Every durable act of the agent goes through ``disk`` meanwhile."""
    replace, unlink, commit, put = Path.replace, Path.unlink, Journal._commit, SqliteSpool.put

    def replaced(path: Path, target: Path) -> Path:
        done = replace(path, target)
        disk.moved(path, Path(target))
        return done

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        existed = path.exists()
        unlink(path, missing_ok)
        if existed:
            disk.act(f"remove {kind(path)}")

    def committed(journal: Journal, statements: Sequence[Any]) -> None:
        commit(journal, statements)
        disk.act("commit journal")

    def spooled(spool: SqliteSpool, topic: str, payload: bytes, *, is_state: bool) -> None:
        put(spool, topic, payload, is_state=is_state)
        disk.act("commit spool")

    with (
        mock.patch.object(files, "os", disk), mock.patch.object(slots, "os", disk),
        mock.patch.object(Path, "replace", replaced), mock.patch.object(Path, "unlink", unlinked),
        mock.patch.object(Journal, "_commit", committed), mock.patch.object(SqliteSpool, "put", spooled),
    ):  # fmt: skip
        yield


@dataclass(frozen=True, slots=True)
class Outcome:
    """One cut: after which act, what served before any network, how it ended, and what is wrong (empty where nothing).

    ``fetched_again``: chunks that had been written before the cut and were asked for once more.
    """

    number: int
    act: str
    at_boot: str
    end: str
    fetched_again: int
    fault: str


class Laboratory:
    """A fleet that wants 2.0.0 on a device that is off and served 1.0.0; each experiment works on a copy of its disk."""

    def __init__(self, folder: Path, *, bake: BakeWindow = GOOD_BAKE, model_bytes: int = 1_200_000) -> None:
        self._folder, self._bake, self._count = folder, bake, 0
        self.world, self._clock = World(), Clock()
        self.world.assign(self.world.release("1.0.0", model_bytes=50_000))
        device = Device(self.world, folder / "before", clock=self._clock).start().run(10)
        device.close()
        self._wanted = self.world.release("2.0.0", model_bytes=model_bytes)
        self.world.assign(self._wanted)

    def again(self) -> bytes:
        """A newer assignment of the same release, as a person would order it after a failure."""
        return self.world.envelope(self._wanted.item)

    def device(self, state: Path, *, unix: float | None = None) -> Device:
        clock = Clock(self._clock.unix if unix is None else unix, self._clock.monotonic)
        return Device(self.world, state, clock=clock, inference=SimulatedInference(window=self._bake))

    def copy(self) -> Path:
        self._count += 1
        state = self._folder / f"copy-{self._count}"
        shutil.copytree(self._folder / "before", state)
        return state

    def acts(self) -> list[str]:
        """Every durable act of an install that nothing disturbs, from the start of the agent on."""
        return self._installed(self.copy(), Disk()).acts

    def cut(self, number: int) -> Outcome:
        """The power goes right after act ``number`` (from 1) and comes back."""
        state = self.copy()
        disk = self._installed(state, Disk(dies_after=number))
        disk.lose_what_was_not_synced()
        SecondCopy(state / "second-copy").read()  # old or new, never half: DamagedJournal otherwise
        again = self.device(state)
        again.runner.boot()
        at_boot = again.serves or "nothing"
        again.link.connect()
        again.run(12)
        asked = {topic for topic in again.link.asked if "/blob/" in topic}
        chunks = envelope.message_count(len(self._wanted.blob))
        fetched_again = max(0, disk.acts.count("write .part") + len(asked) - chunks) if asked else 0
        fault = self._fault(again, at_boot, fetched_again)
        end = f"{again.last.state} serving {again.serves}"
        again.close()
        shutil.rmtree(state)
        return Outcome(number, disk.acts[-1], at_boot, end, fetched_again, fault)

    def _installed(self, state: Path, disk: Disk) -> Disk:
        with watched(disk), contextlib.suppress(PowerCut):
            device = self.device(state)
            try:
                device.start().run(10)
            finally:
                device.close()
        return disk

    def _fault(self, again: Device, at_boot: str, fetched_again: int) -> str:
        is_bad = self._bake is BAD_BAKE
        wanted = ("1.0.0", S.ROLLED_BACK) if is_bad else ("2.0.0", S.COMMITTED)
        committed = again.journal.committed(SLOT)
        lies = [
            each for each in again.reports() if each.state is S.COMMITTED and each.served_sha256 != each.manifest_sha256
        ]
        if at_boot not in {"1.0.0", "2.0.0"}:
            return f"{at_boot} served at boot"
        if (again.serves, again.last.state) != wanted:
            return f"ended {again.last.state} ({again.last.code}) serving {again.serves}"
        if lies or (is_bad and S.COMMITTED in again.states(2)):
            return "a success was reported that was none"
        if committed is None or again.journal.remembered.seq != self.world.seq:
            return "the journal lost what it had"
        # Chunks that were on the disk and not yet synced are asked for again: those of one sync, 1 MiB.
        return f"{fetched_again} chunks were fetched again" if fetched_again > SYNC_CHUNKS else ""
