"""Mergeable percentiles (SPEC 10.3)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol.errors import MalformedMessage
from fleet_protocol.sketch import RELATIVE_ERROR, Sketch, merged

values = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300)


def sketch_of(numbers: list[float]) -> Sketch:
    sketch = Sketch()
    for number in numbers:
        sketch.add(number)
    return sketch


@given(values, st.floats(0, 1))
def test_a_quantile_is_within_two_per_cent(numbers: list[float], share: float) -> None:
    estimate = sketch_of(numbers).quantile(share)
    true = sorted(numbers)[int(share * (len(numbers) - 1))]
    assert estimate is not None
    assert abs(estimate - true) <= true * RELATIVE_ERROR * 1.0001


@given(st.lists(values, max_size=5))
def test_merging_in_any_order_equals_one_sketch_of_everything(parts: list[list[float]]) -> None:
    shuffled = random.Random(1).sample(parts, len(parts))
    whole = sketch_of([number for part in parts for number in part])
    assert merged(map(sketch_of, shuffled)).counts == whole.counts


@given(values)
def test_the_wire_form_reads_back(numbers: list[float]) -> None:
    sketch = sketch_of(numbers)
    assert Sketch.decode(sketch.encode()).counts == sketch.counts


def test_nine_hundred_latencies_take_about_a_hundred_bytes() -> None:
    rng = random.Random(3)
    assert len(sketch_of([rng.lognormvariate(3, 0.15) for _ in range(900)]).encode()) < 120


def test_nothing_counted_has_no_quantile() -> None:
    assert Sketch().quantile(0.5) is None
    assert Sketch.decode(Sketch().encode()).total == 0


def test_the_wire_form_is_pinned() -> None:
    assert sketch_of([1.0, 1.0, 20.0]).encode().hex() == "02d00f024b01"


@pytest.mark.parametrize("wire", [b"", b"\x01", b"\xff" * 12, b"\xff\xff\xff\x7f", b"\x01\xff\xff\x7f\x01"])
def test_a_damaged_sketch_is_refused(wire: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Sketch.decode(wire)


@given(st.binary(max_size=100))
def test_any_bytes_give_a_sketch_or_a_refusal(wire: bytes) -> None:
    try:
        Sketch.decode(wire)
    except MalformedMessage:
        pass
