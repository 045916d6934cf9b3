"""Files are written whole or not at all; packages that were made before are found again."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from fleet_protocol.errors import DiskFull
from fleet_protocol.identifiers import Digest, digest_of
from model_compiler import cache
from model_compiler.cache import Finished, PackageCache
from model_compiler.errors import CannotWrite
from model_compiler.files import check_writable, written_whole
from model_compiler.packages import open_package
from tests.compiler.workshop import Workshop


class Cut(Exception):
    """Something that the writer cannot know."""


def write_half(path: Path) -> None:
    with written_whole(path) as stream:
        stream.write(b"half")
        raise Cut


def test_a_failure_in_mid_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "package"
    path.write_bytes(b"old")
    with pytest.raises(Cut):
        write_half(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_called_by_its_name_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "package"
    path.write_bytes(b"old")
    with pytest.raises(DiskFull, match="no space left"), written_whole(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_whole_write_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "package"
    path.write_bytes(b"old")
    with written_whole(path) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["absent/package.efpkg", "directory"])
def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(CannotWrite, match="existing directory"):
        check_writable(tmp_path / name)


@pytest.fixture
def content(compiled: Workshop) -> Finished:
    found = open_package(next(compiled.out.iterdir()))
    record = found.record(compiled.path / "cache")
    assert record is not None
    return Finished(found.path.read_bytes(), record)


def key(number: int) -> Digest:
    return digest_of(str(number).encode())


def test_the_cache_gives_back_what_it_was_given(tmp_path: Path, content: Finished) -> None:
    store = PackageCache(tmp_path / "new" / "cache")
    assert store.find(key(1)) is None
    store.keep(key(1), content)
    assert store.find(key(1)) == content
    assert store.find(key(2)) is None


def test_the_cache_forgets_the_packages_that_were_used_longest_ago(tmp_path: Path, content: Finished) -> None:
    store = PackageCache(tmp_path)
    store.keep(key(0), content)
    for number in range(cache.MAX_ENTRIES):
        (tmp_path / f"{key(number)}.efpkg").write_bytes(content.package)
        os.utime(tmp_path / f"{key(number)}.efpkg", (number, number))
    assert store.find(key(0)) == content  # used now
    store.keep(key(1000), content)
    assert len(list(tmp_path.glob("*.efpkg"))) == cache.MAX_ENTRIES
    assert store.find(key(1)) is None
    assert store.find(key(0)) == content


def test_a_package_whose_record_was_lost_is_made_again(tmp_path: Path, content: Finished) -> None:
    store = PackageCache(tmp_path)
    store.keep(key(1), content)
    (record,) = tmp_path.glob("*.record.json")
    record.write_bytes(record.read_bytes()[:-9])
    assert store.find(key(1)) is None


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path, content: Finished) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CannotWrite):
        PackageCache(tmp_path / "file" / "cache").keep(key(1), content)


def test_a_result_that_cannot_be_cached_is_still_written(shapes: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    shapes.replace('variants = ["fp32", "int8"]', 'variants = ["fp32"]')
    (shapes.path / "file").write_bytes(b"")
    assert shapes.compile(cache="file/cache") == 0
    assert "note: the result was not cached" in capsys.readouterr().err
    (path,) = shapes.out.iterdir()
    assert io.BytesIO(path.read_bytes()).read(2) == b"PK"


def test_a_search_keeps_its_journal_beside_the_packages_if_it_can(tmp_path: Path) -> None:
    assert PackageCache(tmp_path / "new" / "cache").journal(key(1)) == tmp_path / "new" / "cache" / f"{key(1)}.search"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    assert PackageCache(tmp_path / "file" / "cache").journal(key(1)) is None


@pytest.mark.parametrize(
    "changed", ["model.onnx", "labels.csv", "recipe.toml", "calibration/01000.png", "evaluation/00001.png"]
)
def test_every_input_changes_the_key(shapes: Workshop, changed: str) -> None:
    from model_compiler.inputs import gather

    before = cache.key_of(gather(shapes.recipe), key(0))
    assert cache.key_of(gather(shapes.recipe), key(0)) == before
    assert cache.key_of(gather(shapes.recipe), key(1)) != before
    path = shapes.path / changed
    path.write_bytes(path.read_bytes() + b"\n")
    assert cache.key_of(gather(shapes.recipe), key(0)) != before
