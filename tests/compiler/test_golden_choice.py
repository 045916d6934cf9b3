"""Which images become golden frames, and how far a device may be off."""

from __future__ import annotations

import numpy as np

from model_compiler.stages.evaluate import Answers
from model_compiler.stages.golden import FLOOR, SAFETY, Replay, decisive_frames, pools, select, tolerance


def answers(top1: list[int], margin: list[float]) -> Answers:
    return Answers(np.array(top1, np.int32), np.array(margin, np.float32))


def replay(margin: float, noise: float, scores: tuple[float, ...] = (0.0, 1.0), typical: float | None = None) -> Replay:
    return Replay(([], [np.array([scores], np.float32)]), margin, noise, noise if typical is None else typical)


def test_the_nearest_to_the_boundary_come_first() -> None:
    near, _ = pools(answers([0, 1, 0, 1], [0.9, 0.1, 0.5, 0.2]), [0, 1, 0, 1], 2)
    assert near == [1, 3]


def test_typical_frames_are_clear_right_answers_with_classes_in_turn() -> None:
    top1 = [0, 0, 0, 0, 1, 1, 1, 0]
    margin = [0.9, 0.8, 0.9, 0.1, 0.9, 0.9, 0.2, 0.95]
    labels = [0, 0, 0, 0, 1, 1, 1, 1]  # the last one is clear and wrong
    _, typical = pools(answers(top1, margin), labels, 4)
    assert typical == [0, 4, 2, 5]


def test_half_of_the_frames_are_as_near_as_noise_permits() -> None:
    replays = {
        0: replay(0.01, 0.01),  # so near that noise decides
        1: replay(0.3, 0.01),
        2: replay(0.4, 0.01),
        3: replay(0.99, 0.0),
        4: replay(0.99, 0.0),
    }
    assert select([0, 1, 2], [3, 4], replays, 4) == [1, 2, 3, 4]


def test_unsteady_frames_fill_up_only_where_nothing_else_is_left() -> None:
    replays = {0: replay(0.1, 0.1), 1: replay(0.2, 0.1), 2: replay(0.9, 0.0)}
    assert select([0, 1], [2], replays, 2) == [1, 2]


def test_the_tolerance_covers_the_noise_with_a_margin() -> None:
    assert tolerance([replay(0.9, 0.05), replay(0.9, 0.01)], "int8") == SAFETY * 0.05


def test_only_frames_that_the_tolerance_cannot_turn_are_decisive() -> None:
    assert decisive_frames([replay(0.21, 0.0), replay(0.2, 0.0), replay(0.9, 0.3)], 0.1) == (True, False, True)


def test_a_few_wild_elements_do_not_widen_the_tolerance_but_cost_the_frame_its_say() -> None:
    """One cell of a detector's grid may turn; everything else still has to be right."""
    wild = replay(3.0, 4.0, typical=0.05)
    assert tolerance([wild, replay(0.9, 0.05)], "int8") == SAFETY * 0.05
    assert decisive_frames([wild, replay(3.0, 0.05)], 0.2) == (False, True)


def test_without_noise_the_tolerance_is_a_share_of_the_outputs_span() -> None:
    wide = [replay(0.9, 0.0, (-5.0, 15.0))]
    assert tolerance(wide, "fp32") == FLOOR["fp32"] * 20.0
    assert tolerance(wide, "int8") == FLOOR["int8"] * 20.0
