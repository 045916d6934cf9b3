"""Compiling needs no network and leaves nothing behind: no telemetry, no downloads, no files in the home directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model_compiler.packages import open_package
from tests.compiler.workshop import Workshop

COMPILE = "from model_compiler.cli import main; main()"
ALONE = ("unshare", "--net", "--map-root-user")
"""A namespace without any network, loopback included."""

pytestmark = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode != 0,
    reason="this machine does not let a process give up its network (unshare --net)",
)


def board(name: str, runtime: str) -> str:
    profile = Path("firmware_configs/generic-x86_64.toml")
    text = (Path(__file__).parents[2] / profile).read_text()
    text = text.replace('name = "generic-x86_64"', f'name = "{name}"').replace(
        'name = "onnxruntime"', f'name = "{runtime}"'
    )
    return text.replace('min_version = "1.17"', 'min_version = "1.0"')


def run_alone(code: str, arguments: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    """Python with a fresh home and temporary directory, without a network."""
    (home / "tmp").mkdir(parents=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {**kept, "HOME": str(home), "TMPDIR": str(home / "tmp")}
    command = [*ALONE, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=170)


def files_below(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*") if each.is_file())


def test_the_namespace_really_has_no_network(tmp_path: Path) -> None:
    done = run_alone("import socket; socket.create_connection(('127.0.0.1', 9), 1)", [], tmp_path / "home")
    assert "Network is unreachable" in done.stderr


def test_all_runtimes_are_compiled_for_without_network_and_nothing_is_left_in_the_home(
    shapes: Workshop, tmp_path: Path
) -> None:
    for name, runtime in (("vino", "openvino"), ("lite", "litert")):
        (shapes.path / f"{name}.toml").write_text(board(name, runtime))
    shapes.replace('["generic-x86_64", "raspberry-pi-5"]', '["raspberry-pi-5", "vino.toml", "lite.toml"]')
    shapes.replace('["fp32", "int8"]', '["int8"]')
    home = tmp_path / "home"
    arguments = [
        "compile",
        str(shapes.recipe),
        "--out",
        str(shapes.out),
        "--cache",
        str(shapes.path / "cache"),
        "--report",
    ]
    done = run_alone(COMPILE, arguments, home)
    assert done.returncode == 0, done.stderr
    assert files_below(home) == []
    package = next(shapes.out.glob("*.efpkg"))
    runtimes = {each.manifest.runtime.name for each in open_package(package).contents.variants}
    assert runtimes == {"onnxruntime", "openvino", "litert"}
    assert len(list(shapes.out.iterdir())) == 4
    # Another process, with a network, another home and another number of threads, makes the same bytes.
    alone = package.read_bytes()
    assert shapes.compile("--jobs", "3", cache="another") == 0
    assert package.read_bytes() == alone
