"""How every benchmark here ends: a table for people, then one JSON line per goal."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """``met`` when ``value`` is at most (``at_most``) or at least ``goal``."""

    name: str
    value: float
    unit: str
    goal: float
    at_most: bool = True

    @property
    def is_met(self) -> bool:
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def print_goals(goals: list[Goal]) -> None:
    width = max(len(goal.name) for goal in goals)
    for goal in goals:
        sign = "≤" if goal.at_most else "≥"
        print(
            f"{goal.name:<{width}}  {goal.value:>10.3f} {goal.unit:<6} goal {sign} {goal.goal:g}  {'met' if goal.is_met else 'MISSED'}"
        )
    for goal in goals:
        print(
            json.dumps(
                {
                    "name": goal.name,
                    "value": round(goal.value, 4),
                    "unit": goal.unit,
                    "goal": goal.goal,
                    "met": goal.is_met,
                }
            )
        )
