"""Orders on the workers of a Dask scheduler: the same packages as here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

from model_compiler.cli import run
from tests.compiler.workshop import Workshop

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with one worker, both in this process."""
    space = str(tmp_path_factory.mktemp("dask"))
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        dashboard_address=None,
        local_directory=space,
    ) as cluster:
        yield str(cluster.scheduler_address)


def test_a_farm_makes_the_same_packages(compiled: Workshop, scheduler: str, tmp_path: Path, capsys: Capture) -> None:
    farm = compiled.copy_to(tmp_path / "farm")
    (before,) = farm.out.iterdir()
    expected = before.read_bytes()
    before.unlink()
    second = farm.path / "second.toml"
    second.write_text(farm.recipe.read_text().replace('version = "1.0.0"', 'version = "1.0.1"'))
    arguments = ["compile", str(farm.recipe), str(second), "--out", str(farm.out), "--cache", str(tmp_path / "cache")]
    assert run([*arguments, "--dask", scheduler, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["packages"]
    assert [each["cached"] for each in found] == [False, False]
    assert before.read_bytes() == expected
    assert sorted(each.name for each in farm.out.iterdir()) == ["shapes-1.0.0.efpkg", "shapes-1.0.1.efpkg"]


def test_a_refusal_on_the_farm_is_the_refusal_here(
    shapes: Workshop, scheduler: str, tmp_path: Path, capsys: Capture
) -> None:
    shapes.replace('source = "model.onnx"', 'source = "absent.onnx"')
    arguments = ["compile", str(shapes.recipe), "--out", str(shapes.out), "--cache", str(tmp_path / "cache")]
    assert run([*arguments, "--dask", scheduler]) == 1
    assert "error [malformed-model]: model file" in capsys.readouterr().err
    assert list(shapes.out.iterdir()) == []


def test_a_scheduler_that_is_not_there_is_named(shapes: Workshop, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["compile", str(shapes.recipe), "--out", str(shapes.out), "--cache", str(tmp_path / "cache")]
    assert run([*arguments, "--dask", "tcp://127.0.0.1:1"]) == 1
    assert "error [farm-unreachable]: no Dask scheduler answers at tcp://127.0.0.1:1" in capsys.readouterr().err
