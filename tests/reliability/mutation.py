"""Takes each check of the device away, one at a time, in a copy of the tree, and asks the tests whether they notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from tests.reliability.mutants import MUTANTS, Mutant

_PARTS: Final = ("fleet_protocol", "edge_agent", "firmware_configs", "tests", "pyproject.toml")
_LIMIT_S: Final = 120


@dataclass(frozen=True, slots=True)
class Verdict:
    """``how``: ``killed``, ``survived``, or what is wrong with the entry itself."""

    mutant: Mutant
    how: str
    took_s: float


def stale(root: Path) -> list[str]:
    """Entries whose text no longer stands exactly once in its file."""
    return [
        f"{each.file}: {each.old!r} stands {count} times"
        for each in MUTANTS
        if (count := (root / each.file).read_text().count(each.old)) != 1
    ]


def judged(root: Path, scratch: Path, copies: int = 2) -> Iterator[Verdict]:
    """Every mutant's verdict, in the table's order; ``copies`` trees are worked on at once."""
    trees: SimpleQueue[Path] = SimpleQueue()
    for number in range(copies):
        trees.put(_copied(root, scratch / f"tree-{number}"))

    def judge(mutant: Mutant) -> Verdict:
        tree = trees.get()
        try:
            return _judge(mutant, tree)
        finally:
            trees.put(tree)

    with ThreadPoolExecutor(copies) as pool:
        yield from pool.map(judge, MUTANTS)


def untouched(root: Path, scratch: Path) -> str:
    """Runs every killing test on an unchanged copy: a suite that fails anyway kills nothing. Empty where it passes."""
    tree = _copied(root, scratch / "untouched")
    files = sorted({arg for each in MUTANTS for arg in each.tests if arg.endswith(".py")})
    done = _pytest(tree, tuple(files))
    return "" if done.returncode == 0 else done.stdout[-2000:]


def _judge(mutant: Mutant, tree: Path) -> Verdict:
    path, began = tree / mutant.file, time.monotonic()
    before = path.read_text()
    if before.count(mutant.old) != 1:
        return Verdict(mutant, "the text does not stand exactly once", 0.0)
    path.write_text(before.replace(mutant.old, mutant.new))
    try:
        code = _pytest(tree, mutant.tests).returncode
    except subprocess.TimeoutExpired:
        code = 1
    finally:
        path.write_text(before)
    # 1 is "tests failed"; 2 to 5 are interrupted, internal, usage, nothing collected: those prove nothing.
    how = {0: "survived", 1: "killed"}.get(code, f"pytest ended with {code}")
    return Verdict(mutant, how, time.monotonic() - began)


def _pytest(tree: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    # No byte code: two versions of a file within one second and of one size would share it.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly", *tests]
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )


def _copied(root: Path, tree: Path) -> Path:
    tree.mkdir(parents=True)
    for name in _PARTS:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    return tree
