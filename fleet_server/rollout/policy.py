"""How a rollout goes: its waves, what counts as enough evidence, how long silence is waited for (DESIGN 5)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from fleet_protocol.errors import MalformedInput
from fleet_protocol.states import TERMINAL, DeploymentState

MAX_WAVES: Final = 50
MAX_IN_FLIGHT: Final = 10_000
MAX_LIMIT_S: Final = 30 * 86_400.0
_MAX_TITLE: Final = 63
_PERCENT: Final = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?%")

_S: Final = DeploymentState
TIMED_STATES: Final = tuple(state for state in DeploymentState if state is _S.COMMITTED or state not in TERMINAL)

DEFAULT_LIMITS_S: Final[Mapping[DeploymentState, float]] = {
    _S.IDLE: 900.0,
    _S.OFFERED: 120.0,
    _S.PREFLIGHT: 120.0,
    _S.DOWNLOADING: 1800.0,
    _S.VERIFIED: 300.0,
    _S.STAGED: 300.0,
    _S.SELFTEST: 600.0,
    _S.SHADOW: 3600.0,
    _S.SWITCHING: 120.0,
    _S.BAKING: 3600.0,
    _S.COMMITTED: 180.0,
}
"""Longest silence in each state. IDLE: assigned, not a word yet. COMMITTED: without a heartbeat that serves the new digest."""


class MalformedPolicy(MalformedInput):
    """A rollout's policy that contradicts itself or names something unknown."""

    code = "malformed-policy"


class WavePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One wave. ``size``: an integer adds that many devices; ``"10%"`` opens the rollout to that share of the fleet."""

    title: str
    size: int | str

    @property
    def buckets(self) -> int | None:
        """The bucket offset at which a wave given as a share ends; None for one given as a count."""
        if isinstance(self.size, int):
            return None
        match = _PERCENT.fullmatch(self.size)
        if match is None:
            raise MalformedPolicy(f"a wave's size is a count such as 5 or a share such as 10%, got {self.size[:40]!r}")
        return int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Made by :func:`parse`. Shares are of a wave's assigned devices, 0..1.

    ``success_threshold``: at least this share COMMITTED and confirmed by heartbeats. ``error_threshold``: strictly more
    than this share failed or silent is a breach, judged once ``min_sample`` devices of the wave have ended (or all of a
    smaller wave). ``max_in_flight``: devices on their way at the same time. ``attempt_limit_s``: from assignment to
    COMMITTED. ``rollback_limit_s``: how long a rollback waits for devices that do not answer.
    """

    waves: tuple[WavePlan, ...]
    success_threshold: float = 1.0
    error_threshold: float = 0.0
    min_sample: int = 1
    bake_s: float = 60.0
    max_in_flight: int = 500
    attempt_limit_s: float = 86_400.0
    rollback_limit_s: float = 3600.0
    state_limits_s: dict[str, float] = {}
    auto_rollback: bool = True

    def limit_s(self, state: DeploymentState) -> float:
        """Longest silence in ``state`` before the attempt counts as failed."""
        return self.state_limits_s.get(state, DEFAULT_LIMITS_S[state])


def parse(raw: Mapping[str, Any]) -> Policy:
    """Check a policy that came as JSON; raises MalformedPolicy naming what is wrong."""
    try:
        policy = msgspec.convert(raw, Policy, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedPolicy(f"rollout policy: {error}") from error
    _check_waves(policy.waves)
    _check_numbers(policy)
    _check_limits(policy)
    return policy


def to_json(policy: Policy) -> dict[str, Any]:
    """``policy`` as plain JSON values, every limit spelt out; :func:`parse` takes it back."""
    limits = {str(state): policy.limit_s(state) for state in TIMED_STATES}
    plain: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(policy, state_limits_s=limits))
    return plain


def parse_waves(text: str) -> tuple[WavePlan, ...]:
    """``"1,10%,100%"`` as waves; raises MalformedPolicy."""
    sizes: list[int | str] = [
        int(part) if part.isdecimal() else part for part in map(str.strip, text[:1000].split(","))
    ]
    waves = tuple(WavePlan(title=_title(number, size, len(sizes)), size=size) for number, size in enumerate(sizes))
    _check_waves(waves)
    return waves


def _title(number: int, size: int | str, waves: int) -> str:
    if number == 0 and waves > 1:
        return "canary"
    return f"{size} more" if isinstance(size, int) else f"to {size[: _MAX_TITLE - 3]}"


def _check_waves(waves: tuple[WavePlan, ...]) -> None:
    if not 1 <= len(waves) <= MAX_WAVES:
        raise MalformedPolicy(f"a rollout has 1 to {MAX_WAVES} waves, got {len(waves)}")
    reached = 0
    for wave in waves:
        if not 0 < len(wave.title) <= _MAX_TITLE:
            raise MalformedPolicy(f"a wave's title has 1 to {_MAX_TITLE} characters, got {wave.title[:80]!r}")
        buckets = wave.buckets
        if buckets is None:
            if not 1 <= int(wave.size) <= 1_000_000:
                raise MalformedPolicy(f"a wave adds 1 to 1000000 devices, got {wave.size}")
        elif not reached < buckets <= 10_000:
            raise MalformedPolicy(f"shares of waves grow up to 100%, got {wave.size} after {reached / 100:g}%")
        else:
            reached = buckets


def _check_numbers(policy: Policy) -> None:
    if not 0 < policy.success_threshold <= 1 or not 0 <= policy.error_threshold < 1:
        raise MalformedPolicy("success_threshold is above 0 up to 1, error_threshold from 0 to below 1")
    if not 1 <= policy.min_sample <= 1_000_000:
        raise MalformedPolicy(f"min_sample is 1 to 1000000 devices, got {policy.min_sample}")
    if not 1 <= policy.max_in_flight <= MAX_IN_FLIGHT:
        raise MalformedPolicy(f"max_in_flight is 1 to {MAX_IN_FLIGHT} devices, got {policy.max_in_flight}")
    if not 0 <= policy.bake_s <= MAX_LIMIT_S:
        raise MalformedPolicy(f"bake_s is 0 to {MAX_LIMIT_S:g} seconds, got {policy.bake_s:g}")


def _check_limits(policy: Policy) -> None:
    # Silence is failure: there is no way to write "wait for ever".
    limits = {"attempt_limit_s": policy.attempt_limit_s, "rollback_limit_s": policy.rollback_limit_s}
    for name, seconds in {**limits, **policy.state_limits_s}.items():
        if not 0 < seconds <= MAX_LIMIT_S:
            raise MalformedPolicy(f"the limit {name[:40]} is above 0 up to {MAX_LIMIT_S:g} seconds, got {seconds:g}")
    unknown = sorted(set(policy.state_limits_s) - set(TIMED_STATES))
    if unknown:
        raise MalformedPolicy(f"state_limits_s knows {', '.join(TIMED_STATES)}, not {unknown[0][:40]!r}")
