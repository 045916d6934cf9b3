"""Names that are safe in a topic, a path and an argument (SPEC 1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol.errors import MalformedIdentifier
from fleet_protocol.identifiers import BUCKETS, DeviceId, bucket_of, device_id, digest, digest_of, model_version

REFUSED = ["", "A", "a/b", "+", "#", "..", "-a", "a-", "a" * 64, "a b", "é", "a\n", "a\0"]


@pytest.mark.attack("29")
@pytest.mark.parametrize("text", REFUSED)
def test_a_name_that_could_escape_is_refused(text: str) -> None:
    with pytest.raises(MalformedIdentifier):
        device_id(text)


@pytest.mark.parametrize("text", ["a", "cam-7", "a" * 63, "0"])
def test_a_plain_name_is_taken_as_it_is(text: str) -> None:
    assert device_id(text) == text


@given(st.text(max_size=70))
def test_what_is_accepted_has_only_safe_characters(text: str) -> None:
    try:
        accepted = device_id(text)
    except MalformedIdentifier:
        return
    assert set(accepted) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")


@pytest.mark.parametrize("text", ["1-2", "", "1/2", "1" * 33, "../1"])
def test_a_version_has_no_separator(text: str) -> None:
    with pytest.raises(MalformedIdentifier):
        model_version(text)


@pytest.mark.parametrize("text", ["0" * 63, "0" * 65, "A" * 64, "g" * 64])
def test_a_digest_is_64_lower_case_hexadecimal_digits(text: str) -> None:
    with pytest.raises(MalformedIdentifier):
        digest(text)
    assert digest(digest_of(b"x"))


def test_buckets_are_pinned_and_even() -> None:
    """Devices in the field keep their bucket for life: a change of the hash would reshuffle every running rollout."""
    assert bucket_of(DeviceId("cam-7")) == 9579
    counts = [0] * 10
    for number in range(10_000):
        counts[bucket_of(DeviceId(f"cam-{number}")) * 10 // BUCKETS] += 1
    assert min(counts) > 900
    assert max(counts) < 1100
