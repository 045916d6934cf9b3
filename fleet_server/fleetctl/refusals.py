"""Refusals at the command line: one line with the stable code, and an exit code from one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from fleet_protocol import errors

ERROR: Final = 1
NOT_FOUND: Final = 3
NOT_ALLOWED: Final = 4
CONFLICT: Final = 5
GATE_FAILED: Final = 6
TIMED_OUT: Final = 124


class ServerRefused(errors.FleetError):
    """The server answered with a problem document: its ``code`` and sentence, and the HTTP status."""

    code: ClassVar[str] = "server-refused"

    def __init__(self, status: int, server_code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.server_code = server_code


class RolloutEndedBadly(errors.FleetError):
    """The rollout that was waited for was rolled back or aborted."""

    code: ClassVar[str] = "rollout-not-finished"


class WaitTimedOut(errors.FleetError):
    """What was waited for did not come in time; it may still come."""

    code: ClassVar[str] = "wait-timed-out"


_BY_STATUS: Final[Mapping[int, int]] = {401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND, 409: CONFLICT}
_BY_TYPE: Final[Mapping[type[errors.FleetError], int]] = {
    RolloutEndedBadly: GATE_FAILED,
    WaitTimedOut: TIMED_OUT,
    errors.NotFound: NOT_FOUND,
    errors.NotAuthenticated: NOT_ALLOWED,
    errors.NotAllowed: NOT_ALLOWED,
    errors.Conflict: CONFLICT,
}


def exit_code_of(error: errors.FleetError) -> int:
    """The exit code: of the server's status, else of the nearest parent in the table, else 1."""
    if isinstance(error, ServerRefused):
        return _BY_STATUS.get(error.status, ERROR)
    return next((_BY_TYPE[kind] for kind in type(error).__mro__ if kind in _BY_TYPE), ERROR)


def line_of(error: errors.FleetError) -> str:
    """``error [code]: sentence``."""
    code = error.server_code if isinstance(error, ServerRefused) else error.code
    return f"error [{code}]: {error}"
