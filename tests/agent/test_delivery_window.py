"""Which chunks to ask for, when: the pure window."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.delivery import MAX_REFUSED, Limits, Window, missing_report
from fleet_protocol.errors import ChunkTampered
from fleet_protocol.identifiers import Digest

LIMITS = Limits(window=4, largest=32, smallest=1, stall_s=30.0)


def window(total: int = 100, have: tuple[int, ...] = ()) -> Window:
    return Window(set(range(total)) - set(have), LIMITS)


def test_chunk_zero_comes_first_and_alone_because_it_has_the_header() -> None:
    asked = window()
    assert (asked.next(0.0), asked.next(0.0)) == ([0], [])
    asked.arrived(0, 0.1)
    assert asked.next(0.1) == [1, 2, 3, 4, 5]


def test_only_what_is_missing_is_asked_for() -> None:
    asked = window(8, have=(0, 1, 2, 5))
    assert asked.next(0.0) == [3, 4, 6, 7]
    assert asked.next(0.0) == []


def test_the_window_grows_while_chunks_come_quickly_and_never_beyond_its_limit() -> None:
    asked = window(1000, have=(0,))
    for turn in range(100):
        for index in asked.next(turn):
            asked.arrived(index, turn + 0.1)
    assert asked.size == LIMITS.largest


def test_the_window_shrinks_on_a_slow_link_so_that_commands_do_not_wait() -> None:
    asked = window(1000, have=(0,))
    for turn in range(20):
        for index in asked.next(turn * 10):
            asked.arrived(index, turn * 10 + 5)
    assert asked.size == LIMITS.smallest


def test_nothing_for_too_long_is_a_stall_which_halves_the_window() -> None:
    asked = window(have=(0,))
    asked.next(0.0)
    assert not asked.is_stalled(30.0)
    assert asked.is_stalled(30.1)
    assert asked.stalled(30.1) == [1, 2, 3, 4]
    assert (asked.size, asked.next(30.1)) == (2, [1, 2])
    assert not asked.is_stalled(60.0)


def test_any_chunk_that_comes_is_not_a_stall() -> None:
    asked = window(have=(0,))
    asked.next(0.0)
    asked.arrived(3, 29.0)
    assert not asked.is_stalled(58.0)


def test_without_a_link_nothing_is_asked_for_and_nothing_stalls() -> None:
    asked = window(have=(0,))
    asked.next(0.0)
    asked.link_lost()
    assert not asked.is_stalled(1e9)
    assert asked.next(2e9) == [1, 2, 3, 4]
    assert not asked.is_stalled(2e9 + 1)


def test_a_chunk_that_nobody_asked_for_is_welcome_and_teaches_nothing() -> None:
    asked = window(have=(0,))
    asked.arrived(50, 0.1)
    assert (50 in asked.missing, asked.size) == (False, LIMITS.window)


def test_too_many_chunks_that_do_not_authenticate_end_the_download() -> None:
    asked = window(have=(0,))
    assert [asked.not_authentic() for _ in range(MAX_REFUSED - 1)] == [None] * (MAX_REFUSED - 1)
    assert isinstance(asked.not_authentic(), ChunkTampered)


@given(st.lists(st.tuples(st.floats(0, 40), st.booleans()), max_size=200), st.integers(1, 200))
def test_every_chunk_is_asked_for_until_it_came_and_never_more_than_the_limit_at_once(
    steps: list[tuple[float, bool]], total: int
) -> None:
    asked, now = window(total), 0.0
    for pause, comes in steps:
        now += pause
        if asked.is_stalled(now):
            asked.stalled(now)
        assert not set(asked.next(now)) - asked.missing
        assert len(asked.asked) <= LIMITS.largest
        if comes and asked.asked:
            asked.arrived(min(asked.asked), now)
    while not asked.is_complete:
        for index in asked.next(now):
            asked.arrived(index, now)
        for index in list(asked.asked):
            asked.arrived(index, now)
    assert (asked.next(now), asked.asked) == ([], {})


@pytest.mark.parametrize(("total", "missing"), [(1, {0}), (8, {7}), (9, {8}), (65_536, {0, 65_535})])
def test_the_missing_report_has_a_bit_for_every_missing_chunk_and_fits_a_message(total: int, missing: set[int]) -> None:
    from fleet_protocol import messages

    made = missing_report(Digest("a" * 64), total * 32_800, total, missing)
    set_bits = {index for index in range(total) if made.bitmap[index // 8] >> (index % 8) & 1}
    assert set_bits == missing
    assert messages.decode(messages.encode(made), messages.MissingChunks) == made


def test_the_window_module_touches_nothing() -> None:
    import edge_agent.delivery as module

    source = Path(module.__file__).read_text()
    assert not any(f"import {name}" in source for name in ("os", "time", "socket", "pathlib", "random"))
