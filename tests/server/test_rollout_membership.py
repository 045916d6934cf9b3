"""Selectors, windows, policies and variants: who a rollout is for."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol.errors import NoMatchingVariant
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import BUCKETS, digest_of
from fleet_server.rollout import policy as policies
from fleet_server.rollout import selector as selectors
from fleet_server.rollout.membership import OfferedVariant, bucket_ranges, choose, lay_out, offset_of
from fleet_server.rollout.policy import MalformedPolicy, WavePlan
from fleet_server.rollout.selector import MalformedSelector
from tests.protocol import samples

BERLIN = {"site": "berlin", "line": "3"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("all", True),
        ("  all ", True),
        ("site=berlin", True),
        ("site==berlin", True),
        ("site = berlin , line=3", True),
        ("site=paris", False),
        ("site!=paris", True),
        ("site in (paris, berlin)", True),
        ("site notin (paris,rome)", True),
        ("site in (paris)", False),
        ("legacy", False),
        ("!legacy", True),
        ("! legacy,site", True),
        ("missing!=x", True),
        ("board=rpi", True),
        ("board in (rpi,x86),id=cam-1", True),
        ("id=cam-2", False),
    ],
)
def test_selectors_read_as_they_look(text: str, matches: bool) -> None:
    assert selectors.parse(text).matches("cam-1", "rpi", BERLIN) is matches


def test_a_tag_cannot_pose_as_a_board_or_an_id() -> None:
    assert not selectors.parse("board=rpi").matches("cam-1", "x86", {"board": "rpi"})


@pytest.mark.parametrize(
    "text", ["=x", "site=", "a b", "site in paris", "site in ()", "a,,b", "a,", "a=(b)", "é=1", "x" * 401]
)
def test_a_selector_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(MalformedSelector):
        selectors.parse(text)


@given(st.text(max_size=500))
def test_no_text_breaks_the_selector_parser(text: str) -> None:
    with suppress(MalformedSelector):
        assert selectors.parse(text).matches("cam-1", "rpi", BERLIN) in {True, False}


@given(st.integers(0, BUCKETS - 1), st.integers(0, BUCKETS), st.integers(0, BUCKETS - 1))
def test_bucket_ranges_hold_exactly_the_open_window(salt: int, opened: int, bucket: int) -> None:
    inside = any(first <= bucket < end for first, end in bucket_ranges(salt, opened))

    assert inside == (offset_of(bucket, salt) < opened)


PLANS = st.lists(st.integers(1, 30), max_size=3).map(
    lambda counts: (
        [WavePlan(title="w", size=count) for count in counts]
        + [WavePlan(title="w", size=share) for share in ("10%", "50%", "100%")]
    )
)


@given(PLANS, st.lists(st.integers(0, BUCKETS - 1), max_size=200))
def test_waves_nest_hold_somebody_and_end_with_everybody(plans: list[WavePlan], offsets: list[int]) -> None:
    waves = lay_out(plans, offsets)

    assert [wave.number for wave in waves] == list(range(1, len(waves) + 1))
    assert all(wave.members > 0 for wave in waves)
    assert sum(wave.members for wave in waves) == len(offsets)
    ends = [0, *(wave.window_end for wave in waves)]
    assert ends == sorted(ends)
    for wave, (start, end) in zip(waves, pairwise(ends), strict=True):
        assert wave.members == sum(start <= offset < end for offset in offsets)
    assert not waves or waves[-1].window_end == BUCKETS


def test_a_wave_by_count_holds_that_many() -> None:
    waves = lay_out(policies.parse_waves("1,3,100%"), [10, 20, 30, 40, 50, 60])

    assert [(wave.title, wave.window_end, wave.members) for wave in waves] == [
        ("canary", 11, 1),
        ("3 more", 41, 3),
        ("to 100%", 10_000, 2),
    ]


def test_in_a_fleet_of_three_a_tenth_is_one_device() -> None:
    waves = lay_out(policies.parse_waves("1,10%,100%"), [4000, 5000, 6000])

    assert [wave.members for wave in waves] == [1, 1, 1]


def test_a_fleet_of_one_has_one_wave_that_newcomers_join() -> None:
    waves = lay_out(policies.parse_waves("1,10%,100%"), [4000])

    assert [(wave.title, wave.window_end, wave.members) for wave in waves] == [("canary", 10_000, 1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"waves": []},
        {"waves": [{"title": "w", "size": 0}]},
        {"waves": [{"title": "w", "size": "0%"}]},
        {"waves": [{"title": "w", "size": "101%"}]},
        {"waves": [{"title": "w", "size": "ten"}]},
        {"waves": [{"title": "", "size": 1}]},
        {"waves": [{"title": "w", "size": "50%"}, {"title": "w", "size": "10%"}]},
        {"waves": [{"title": "w", "size": 1}] * 51},
        {"success_threshold": 0.0},
        {"success_threshold": float("nan")},
        {"error_threshold": 1.0},
        {"min_sample": 0},
        {"max_in_flight": 0},
        {"bake_s": -1.0},
        {"bake_s": float("inf")},
        {"attempt_limit_s": 0.0},
        {"rollback_limit_s": float("inf")},
        {"state_limits_s": {"IDLE": 0.0}},
        {"state_limits_s": {"FAILED": 5.0}},
        {"state_limits_s": {"COMMITED": 5.0}},
        {"sucess_threshold": 0.5},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedPolicy):
        policies.parse({"waves": [{"title": "w", "size": "100%"}]} | changes)


def test_a_stored_policy_spells_out_every_limit_and_reads_back() -> None:
    policy = policies.parse({"waves": [{"title": "w", "size": 5}], "state_limits_s": {"IDLE": 60.0}})

    stored = policies.to_json(policy)

    assert stored["state_limits_s"] == {str(state): policy.limit_s(state) for state in policies.TIMED_STATES}
    assert stored["state_limits_s"]["IDLE"] == 60.0
    assert policies.to_json(policies.parse(stored)) == stored


def test_a_device_gets_the_first_variant_that_fits() -> None:
    wanted = samples.manifest().runtime
    new = offered(runtime=_with(wanted, min_version="9.0"), variant="needs-new")
    fits, also = offered(variant="fits"), offered(variant="also-fits")

    assert choose([new, fits, also], samples.FINGERPRINT).manifest.variant == "fits"
    with pytest.raises(NoMatchingVariant, match=r"needs onnxruntime 9\.0 or newer"):
        choose([new], samples.FINGERPRINT)
    with pytest.raises(NoMatchingVariant, match="this board is toaster"):
        choose([fits], Fingerprint("toaster", "onnxruntime", "1.28.0", "x86_64"))


def offered(**changes: object) -> OfferedVariant:
    made = samples.manifest(**changes)
    return OfferedVariant(digest_of(made.encode()), made, 1000)


def _with(struct: object, **changes: object) -> object:
    import msgspec

    return msgspec.structs.replace(struct, **changes)  # type: ignore[type-var]
