"""One table of legal moves (SPEC 8.1)."""

from itertools import product

import pytest

from fleet_protocol.states import NEXT, TERMINAL, UNSUCCESSFUL, DeploymentState, is_legal

S = DeploymentState


def test_every_state_has_a_row_and_can_be_reached() -> None:
    assert set(NEXT) == set(S)
    assert set().union(*NEXT.values()) == set(S) - {S.IDLE}


def test_the_ends_are_these() -> None:
    assert {S.COMMITTED, S.REJECTED, S.FAILED, S.ROLLED_BACK, S.INCONSISTENT} == TERMINAL
    assert TERMINAL - {S.COMMITTED} == UNSUCCESSFUL


@pytest.mark.parametrize(("before", "after"), list(product(S, S)))
def test_a_report_moves_only_along_the_table(before: S, after: S) -> None:
    assert is_legal(before, after, skipped=0) == (after in NEXT[before])
    if before in TERMINAL:
        assert not is_legal(before, after, skipped=5)


def test_nothing_serves_before_it_was_verified_and_proved() -> None:
    """Without COMMITTED's shortcut for what already runs, every way to BAKING passes VERIFIED, STAGED and SELFTEST."""
    for needed in (S.VERIFIED, S.STAGED, S.SELFTEST, S.SWITCHING):
        seen, todo = set(), [S.IDLE]
        while todo:
            state = todo.pop()
            if state is not needed and state not in seen:
                seen.add(state)
                todo += NEXT[state]
        assert S.BAKING not in seen


def test_a_lost_report_does_not_make_the_next_one_impossible() -> None:
    assert is_legal(S.DOWNLOADING, S.BAKING, skipped=3)
    assert not is_legal(S.DOWNLOADING, S.BAKING, skipped=0)
    assert not is_legal(S.BAKING, S.DOWNLOADING, skipped=3)
