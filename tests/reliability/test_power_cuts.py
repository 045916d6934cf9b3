"""Power cuts with the loss of unsynced bytes, after each kind of durable act; ``make test-reliability`` cuts after every one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.hazards import HAZARDS
from tests.reliability.power import BAD_BAKE, GOOD_BAKE, Laboratory

pytestmark = pytest.mark.attack("33")


def first_and_last(acts: list[str]) -> list[int]:
    """Numbers (from 1) of the first and the last act of each kind."""
    numbers = {acts.index(act) + 1 for act in acts}
    return sorted(numbers | {len(acts) - acts[::-1].index(act) for act in acts})


@pytest.mark.parametrize(("bake", "model_bytes"), [(GOOD_BAKE, 1_200_000), (BAD_BAKE, 50_000)], ids=["good", "bad"])
def test_after_a_cut_behind_any_kind_of_act_one_model_serves_and_the_truth_is_told(
    tmp_path: Path, bake: object, model_bytes: int
) -> None:
    laboratory = Laboratory(tmp_path, bake=bake, model_bytes=model_bytes)  # type: ignore[arg-type]
    acts = laboratory.acts()
    assert {"commit journal", "commit spool", "write .part", "sync .part", "sync .map", "rename .part"} <= set(acts)
    outcomes = [laboratory.cut(number) for number in first_and_last(acts)]
    assert [outcome for outcome in outcomes if outcome.fault] == []


@pytest.mark.parametrize("hazard", HAZARDS)
def test_whatever_a_device_meets_it_serves_on_and_is_updated_when_it_is_over(tmp_path: Path, hazard: str) -> None:
    seen = HAZARDS[hazard](Laboratory(tmp_path))
    assert seen.is_well, seen
