"""Which candidate becomes the variant, and whether it may."""

from __future__ import annotations

import pytest

from fleet_protocol.errors import AccuracyRefused
from model_compiler.recipe import Gate
from model_compiler.stages.gate import Trial, check, choose

GATE = Gate(max_drop=0.02)


def trial(accuracy: float, agreement: float = 1.0, method: str = "a", variant: str = "ort-int8") -> Trial:
    return Trial(variant, method, accuracy, agreement)


def test_the_most_accurate_candidate_wins() -> None:
    assert choose([trial(0.88), trial(0.95, method="b"), trial(0.94)], GATE).method == "b"


def test_of_equally_accurate_candidates_the_one_nearest_to_fp32_wins() -> None:
    assert choose([trial(0.95, 0.96), trial(0.95, 0.98, "b")], GATE).method == "b"


def test_of_equal_candidates_the_first_wins() -> None:
    assert choose([trial(0.95), trial(0.95, method="b")], GATE).method == "a"


@pytest.mark.parametrize("accuracy", [0.96, 0.94])
def test_a_drop_up_to_the_limit_passes(accuracy: float) -> None:
    check([trial(accuracy)], 0.96, Gate(max_drop=0.02), 100)


def test_a_drop_above_the_limit_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        AccuracyRefused, match=r"ort-int8 reaches 0\.9390, 0\.0210 below fp32's 0\.9600 where at most 0\.0200"
    ):
        check([trial(0.939)], 0.96, Gate(max_drop=0.02), 1000)


def test_the_floor_holds_for_fp32_too() -> None:
    with pytest.raises(AccuracyRefused, match=r"ort-fp32 reaches 0\.8900 where at least 0\.9000 is wanted"):
        check([trial(0.89, variant="ort-fp32")], 0.89, Gate(max_drop=1.0, min_accuracy=0.9), 100)


def test_every_failing_variant_is_named() -> None:
    failing = [trial(0.5), trial(0.6, variant="ov-int8"), trial(0.96, variant="ort-fp32")]
    with pytest.raises(AccuracyRefused) as refusal:
        check(failing, 0.96, Gate(max_drop=0.02), 100)
    assert "ort-int8" in str(refusal.value)
    assert "ov-int8" in str(refusal.value)
    assert "ort-fp32" not in str(refusal.value)
