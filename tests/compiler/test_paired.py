"""Two models on the same images: what may be said of their difference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_compiler.metrics.paired import collapsed, compare


def outcomes(*, images: int, lost: int, gained: int) -> tuple[np.ndarray, np.ndarray]:
    """Credits of two models that differ on ``lost + gained`` images."""
    baseline, variant = np.ones(images), np.ones(images)
    variant[:lost] = 0.0
    baseline[lost : lost + gained] = 0.0
    return baseline, variant


def test_only_the_images_where_they_differ_count() -> None:
    found = compare(*outcomes(images=1000, lost=12, gained=3), 0.009)
    assert (found.lost, found.gained, found.images) == (12, 3, 1000)
    # Two-sided exact binomial test of 12 in 15, from the table: 2 * sum(C(15, k), k = 0..3) / 2^15.
    assert found.p_value == pytest.approx(2 * (1 + 15 + 105 + 455) / 2**15)


def test_models_that_agree_everywhere_do_not_differ() -> None:
    assert compare(*outcomes(images=50, lost=0, gained=0), 0.0).p_value == 1.0


def test_the_same_drop_is_proved_by_many_images_and_not_by_few() -> None:
    few, many = (compare(*outcomes(images=n, lost=n // 100, gained=0), 0.01) for n in (100, 10_000))
    assert many.proves(0.015)
    assert not few.proves(0.015)


def test_agreement_on_a_handful_of_images_proves_nothing() -> None:
    found = compare(*outcomes(images=20, lost=0, gained=0), 0.0)
    assert not found.proves(0.01)
    assert not found.can_prove(0.01)
    assert compare(*outcomes(images=1000, lost=0, gained=0), 0.0).can_prove(0.01)


def test_the_limit_at_one_half_is_the_drop_itself() -> None:
    assert compare(*outcomes(images=100, lost=7, gained=2), 0.05).limit(0.5) == pytest.approx(0.05)


@settings(deadline=None)  # the first example imports scipy
@given(st.integers(10, 500), st.integers(0, 10), st.integers(0, 10))
def test_more_confidence_never_narrows_the_limit(images: int, lost: int, gained: int) -> None:
    lost, gained = min(lost, images // 2), min(gained, images // 2)
    found = compare(*outcomes(images=images, lost=lost, gained=gained), (lost - gained) / images)
    assert found.drop <= found.limit(0.8) <= found.limit(0.95) <= found.limit(0.99)


def test_the_limit_holds_about_as_often_as_it_says() -> None:
    """2000 draws of two models that differ by two points: the 95 % limit is below the truth in about one of 20."""
    random = np.random.default_rng(5)
    broken = 0
    for _ in range(2000):
        draw = random.choice(3, size=400, p=[0.95, 0.035, 0.015])
        baseline, variant = (draw != 2).astype(float), (draw != 1).astype(float)
        broken += compare(baseline, variant, float((baseline - variant).mean())).limit() < 0.02
    assert broken / 2000 < 0.07


def test_a_class_that_was_given_up_is_named_though_the_mean_hides_it() -> None:
    baseline, variant = np.ones(1000), np.ones(1000)
    variant[:12] = 0.0
    members = {"bicycle": np.arange(1000) < 14, "car": np.arange(1000) >= 14}
    assert float(baseline.mean() - variant.mean()) < 0.02
    assert collapsed(members, baseline, variant) == ["bicycle"]


def test_two_unlucky_images_are_no_collapse() -> None:
    baseline, variant = np.ones(100), np.ones(100)
    variant[:2] = 0.0
    assert collapsed({"rare": np.arange(100) < 2, "rest": np.arange(100) >= 2}, baseline, variant) == []


def test_a_class_that_fp32_never_had_cannot_be_given_up() -> None:
    assert collapsed({"x": np.ones(30, bool)}, np.zeros(30), np.zeros(30)) == []
