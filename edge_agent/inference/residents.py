"""Which models of a slot are in memory, and which of them gets the next frame. Values only: each move returns who leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_agent.ports import SealedModel
from edge_agent.worker.client import Worker


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """A model and the process that holds it. Compared by identity: the same model in a new process is another resident."""

    model: SealedModel
    worker: Worker


Leaving = tuple[Resident, ...]


@dataclass(frozen=True, slots=True)
class Residents:
    """``serving`` gets the frames, ``staged`` has proved itself and waits, ``kept`` served before and may return.

    ``is_baking``: between a switch and its commit or revert, where ``kept`` may rightly be None (the slot's first model).
    """

    serving: Resident | None = None
    staged: Resident | None = None
    kept: Resident | None = None
    is_baking: bool = False

    def stage(self, new: Resident) -> tuple[Residents, Leaving]:
        """``new`` waits for the switch; one that waited before leaves."""
        return replace(self, staged=new), _present(self.staged)

    def discard(self) -> tuple[Residents, Leaving]:
        """Whoever waits leaves."""
        return replace(self, staged=None), _present(self.staged)

    def switch(self) -> tuple[Residents, Leaving]:
        """The staged one serves, the one that served is kept. Raises RuntimeError where nothing is staged."""
        if self.staged is None:
            raise RuntimeError("switch without a staged model")
        return Residents(serving=self.staged, kept=self.serving, is_baking=True), _present(self.kept)

    def commit(self) -> tuple[Residents, Leaving]:
        """The kept one leaves."""
        return replace(self, kept=None, is_baking=False), _present(self.kept)

    def revert(self) -> tuple[Residents, Leaving]:
        """The kept one serves again (or nobody), the new one leaves; nothing happens outside a bake."""
        if not self.is_baking:
            return self, ()
        return Residents(serving=self.kept, staged=self.staged), _present(self.serving)

    def install(self, new: Resident) -> tuple[Residents, Leaving]:
        """``new`` serves at once; whoever served or was kept leaves."""
        return Residents(serving=new, staged=self.staged), _present(self.serving, self.kept)

    def revive(self, dead: Resident, fresh: Resident) -> tuple[Residents, Leaving]:
        """``fresh`` takes the place of ``dead``, or leaves itself where that is no longer its place."""
        if self.serving is not dead:
            return self, (fresh,)
        return replace(self, serving=fresh), (dead,)

    def give_up(self, dead: Resident) -> tuple[Residents, Leaving]:
        """Nobody serves where ``dead`` did."""
        if self.serving is not dead:
            return self, ()
        return replace(self, serving=None), (dead,)

    def clear(self) -> tuple[Residents, Leaving]:
        """Everybody leaves."""
        return Residents(), self.all()

    def all(self) -> Leaving:
        """Everybody who holds memory."""
        return _present(self.serving, self.staged, self.kept)


def _present(*residents: Resident | None) -> Leaving:
    return tuple(resident for resident in residents if resident is not None)
