"""What is kept on the way: found again whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fleet_protocol.identifiers import digest_of
from model_compiler.range_store import MAX_ENTRIES, RangeStore
from model_compiler.search.journal import Journal
from model_compiler.stages.calibrate import BINS, Ranges
from model_compiler.stages.quantize import Scheme
from tests.compiler.workshop import Workshop

RANGES = Ranges(
    ("image", "scores"),
    np.array([-1.5, 0.0]),
    np.array([2.0, 1 / 3]),
    np.arange(2 * BINS, dtype=np.int64).reshape(2, BINS),
)


@pytest.fixture
def store(tmp_path: Path) -> RangeStore:
    return RangeStore(tmp_path / "kept", digest_of(b"toolchain"))


def test_ranges_are_found_again_bit_by_bit_for_the_same_inputs_only(store: RangeStore) -> None:
    store.keep(RANGES, b"model", b"images")
    found = store.ranges(b"model", b"images")
    assert found is not None
    assert found.names == RANGES.names
    for one, other in ((found.low, RANGES.low), (found.high, RANGES.high), (found.counts, RANGES.counts)):
        np.testing.assert_array_equal(one, other)
    assert store.ranges(b"model", b"other images") is None
    assert store.ranges(b"modelimages", b"") is None
    assert RangeStore(store.directory, digest_of(b"newer")).ranges(b"model", b"images") is None


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_damaged_ranges_are_measured_anew(store: RangeStore, keep: int) -> None:
    store.keep(RANGES, b"model")
    assert store.directory is not None
    (path,) = (store.directory / "ranges").iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    assert store.ranges(b"model") is None


def test_the_oldest_ranges_go_first(store: RangeStore) -> None:
    for number in range(MAX_ENTRIES + 3):
        store.keep(RANGES, number.to_bytes(2, "big"))
    assert store.directory is not None
    assert len(list((store.directory / "ranges").iterdir())) == MAX_ENTRIES


def test_without_a_directory_nothing_is_kept() -> None:
    nowhere = RangeStore(None, digest_of(b"toolchain"))
    nowhere.keep(RANGES, b"model")
    assert nowhere.ranges(b"model") is None


def test_a_search_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "search" / "1.jsonl"
    first = Journal(path)
    first.keep(Scheme("p99.9", ("Conv_1",)), 0.1)
    first.keep(Scheme("p99.9"), float("inf"))

    second = Journal(path)
    assert second.find(Scheme("p99.9", ("Conv_1",))) == 0.1
    assert second.find(Scheme("p99.9")) == float("inf")
    assert second.find(Scheme("p99.9", ("Conv_2",))) is None
    second.close()
    assert not path.exists()


def test_a_line_that_was_cut_by_a_crash_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "1.jsonl"
    journal = Journal(path)
    journal.keep(Scheme("min-max"), 0.5)
    journal.keep(Scheme("p99.9"), 0.25)
    path.write_bytes(path.read_bytes()[:-5])
    again = Journal(path)
    assert again.find(Scheme("min-max")) == 0.5
    assert again.find(Scheme("p99.9")) is None
    again.keep(Scheme("p99.9"), 0.25)
    assert Journal(path).find(Scheme("p99.9")) == 0.25


def test_calibration_is_not_repeated_for_another_gate(shapes: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert shapes.compile("--json") == 0
    assert '"stage": "ranges"' in capsys.readouterr().err
    shapes.replace("max_drop = 0.02", "max_drop = 0.03")
    assert shapes.compile("--json") == 0
    assert '"stage": "ranges"' not in capsys.readouterr().err
