"""JSON from outside (SPEC 1.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol import strict_json
from fleet_protocol.errors import InputTooLarge, MalformedInput, MalformedJson


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b"[Infinity]",
        b"[" * 40 + b"]" * 40,
        b"\xff",
        b'{"a":1}x',
        b"[" * 60_000,
    ],
)
def test_ambiguous_or_hostile_json_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedJson):
        strict_json.loads(content)


def test_the_limit_is_checked_before_anything_is_parsed() -> None:
    assert strict_json.loads(b'"' + b"a" * (strict_json.MAX_BYTES - 2) + b'"')
    with pytest.raises(InputTooLarge):
        strict_json.loads(b'"' + b"a" * (strict_json.MAX_BYTES - 1) + b'"')


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_malformed_input(content: bytes) -> None:
    try:
        strict_json.loads(content)
    except MalformedInput:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_canonical_bytes_read_back_to_the_same_value(value: object) -> None:
    assert strict_json.loads(strict_json.dumps(value), max_bytes=10**7) == value
