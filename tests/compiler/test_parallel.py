"""Many images at once, answers in order, nothing piled up."""

from __future__ import annotations

import threading

import pytest

from model_compiler.parallel import in_order


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_answers_come_in_the_order_of_the_questions(jobs: int) -> None:
    assert list(in_order(lambda number: number * number, range(50), jobs)) == [number * number for number in range(50)]


def test_no_more_questions_are_taken_than_three_per_thread() -> None:
    taken: list[int] = []

    def questions() -> object:
        for number in range(1000):
            taken.append(number)
            yield number

    answers = in_order(lambda number: number, questions(), 2)  # type: ignore[arg-type]
    next(answers)
    assert len(taken) <= 6
    answers.close()  # type: ignore[attr-defined]


def test_the_first_failure_ends_the_work() -> None:
    worked = []

    def work(number: int) -> int:
        worked.append(number)
        if number == 3:
            raise ValueError(number)
        return number

    with pytest.raises(ValueError, match="3"):
        list(in_order(work, range(1000), 2))
    assert len(worked) <= 10
    assert threading.active_count() < 10
