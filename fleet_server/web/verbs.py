"""The six verbs of a rollout: one table for API, page and command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from fleet_server.db.models import Rollout
from fleet_server.rollout.view import LIVE, RolloutState
from fleet_server.services.rollouts import Rollouts

RolloutVerb = Literal["start", "pause", "resume", "promote", "abort", "undo"]
VERBS: Final[tuple[RolloutVerb, ...]] = get_args(RolloutVerb)


@dataclass(frozen=True, slots=True)
class Verb:
    """What a verb does, in words for a page, and in which states of a rollout it can be asked for."""

    title: str
    effect: str
    states: frozenset[RolloutState]
    is_destructive: bool = False


_S: Final = RolloutState

WORDS: Final[Mapping[RolloutVerb, Verb]] = {
    "start": Verb("Start", "Opens the first wave.", frozenset({_S.DRAFT})),
    "pause": Verb("Pause", "Opens and assigns nothing more; devices on their way arrive.", frozenset({_S.RUNNING})),
    "resume": Verb("Resume", "Goes on where it paused.", frozenset({_S.PAUSED})),
    "promote": Verb("Promote", "Passes the present wave on your word, whatever its evidence.", LIVE),
    "abort": Verb(
        "Abort",
        "Stops here: proven devices keep the new model, all others get the one before back.",
        LIVE | {_S.DRAFT},
        is_destructive=True,
    ),
    "undo": Verb(
        "Undo",
        "Takes the new model back from every device.",
        LIVE | {_S.ABORTED, _S.FINISHED},
        is_destructive=True,
    ),
}


def act(rollouts: Rollouts, verb: RolloutVerb, rollout_id: int, *, who: str, reason: str) -> Rollout:
    """Carry out ``verb``; raises NotFound, or Conflict where the rollout's state does not allow it."""
    methods: Mapping[RolloutVerb, Callable[..., Rollout]] = {
        "start": rollouts.start,
        "pause": rollouts.pause,
        "resume": rollouts.resume,
        "promote": rollouts.promote,
        "abort": rollouts.abort,
        "undo": rollouts.undo,
    }
    return methods[verb](rollout_id, who=who, reason=reason)
