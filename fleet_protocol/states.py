"""The life of one deployment on one device: one table, used by the device to act and by the server to follow (SPEC 8.1)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class DeploymentState(StrEnum):
    """States of one execution of one assignment item. The names are on the wire."""

    IDLE = "IDLE"
    OFFERED = "OFFERED"
    PREFLIGHT = "PREFLIGHT"
    DOWNLOADING = "DOWNLOADING"
    VERIFIED = "VERIFIED"
    STAGED = "STAGED"
    SELFTEST = "SELFTEST"
    SHADOW = "SHADOW"
    SWITCHING = "SWITCHING"
    BAKING = "BAKING"
    COMMITTED = "COMMITTED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"
    ROLLED_BACK = "ROLLED_BACK"
    INCONSISTENT = "INCONSISTENT"


_S = DeploymentState

NEXT: Final[Mapping[DeploymentState, frozenset[DeploymentState]]] = {
    _S.IDLE:         frozenset({_S.OFFERED}),
    _S.OFFERED:      frozenset({_S.PREFLIGHT, _S.REJECTED, _S.FAILED}),
    _S.PREFLIGHT:    frozenset({_S.DOWNLOADING, _S.COMMITTED, _S.REJECTED, _S.FAILED}),
    _S.DOWNLOADING:  frozenset({_S.DOWNLOADING, _S.VERIFIED, _S.REJECTED, _S.FAILED}),
    _S.VERIFIED:     frozenset({_S.STAGED, _S.REJECTED, _S.FAILED}),
    _S.STAGED:       frozenset({_S.SELFTEST, _S.FAILED}),
    _S.SELFTEST:     frozenset({_S.SHADOW, _S.SWITCHING, _S.REJECTED, _S.FAILED}),
    _S.SHADOW:       frozenset({_S.SWITCHING, _S.FAILED}),
    _S.SWITCHING:    frozenset({_S.BAKING, _S.ROLLED_BACK, _S.INCONSISTENT}),
    _S.BAKING:       frozenset({_S.COMMITTED, _S.ROLLED_BACK, _S.INCONSISTENT}),
    _S.COMMITTED:    frozenset(),
    _S.REJECTED:     frozenset(),
    _S.FAILED:       frozenset(),
    _S.ROLLED_BACK:  frozenset(),
    _S.INCONSISTENT: frozenset(),
}  # fmt: skip
"""REJECTED: retrying cannot help (wrong board, refused by policy). FAILED: it may; the old model was never touched.
ROLLED_BACK: the new model served and was taken back. INCONSISTENT: neither could be restored; needs a person.
PREFLIGHT may end at COMMITTED: the slot already serves that manifest (an assignment that repeats what runs)."""

TERMINAL: Final[frozenset[DeploymentState]] = frozenset(state for state, after in NEXT.items() if not after)
UNSUCCESSFUL: Final[frozenset[DeploymentState]] = TERMINAL - {_S.COMMITTED}


def _closure() -> Mapping[DeploymentState, frozenset[DeploymentState]]:
    reach: dict[DeploymentState, frozenset[DeploymentState]] = dict(NEXT)
    for _ in DeploymentState:
        reach = {
            state: after.union(*(reach[step] for step in after)) if after else after for state, after in reach.items()
        }
    return reach


_REACH: Final = _closure()


def is_legal(before: DeploymentState, after: DeploymentState, *, skipped: int) -> bool:
    """Whether a report may move an execution from ``before`` to ``after``.

    ``skipped``: versions missing between the two reports. A spool that overflowed may lose steps, so after a gap any
    later state is legal; without one only a row of :data:`NEXT` is. A terminal state never moves (SPEC 8.4).
    """
    return after in (_REACH[before] if skipped else NEXT[before])
