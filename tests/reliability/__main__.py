"""``make test-reliability``: attacks, mutants and power cuts as three tables. Exit code 1 where any row is not as it should be."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.reliability import mutation
from tests.reliability.attack_table import ROWS
from tests.reliability.hazards import HAZARDS
from tests.reliability.power import BAD_BAKE, GOOD_BAKE, Laboratory, Outcome

_ROOT: Final = Path(__file__).parents[2]
_OUT: Final = Console(width=170, highlight=False)
_SCENARIOS: Final = {"good": (GOOD_BAKE, 1_200_000), "bad": (BAD_BAKE, 50_000)}


def attacks(scratch: Path) -> bool:
    """Runs every test that is marked with a row; a row holds when it has tests and all of them passed."""
    results = scratch / "attacks.json"
    command = [
        sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "attack",
        "-p", "tests.reliability.recording", "--attacks-to", str(results), "tests",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    by_row: dict[str, dict[str, bool]] = json.loads(results.read_text()) if results.exists() else {}
    table = Table("#", "attacker", "attack", "answer", "tests", "", title="Attacks")
    held = 0
    for number, row in ROWS.items():
        tests = by_row.get(number, {})
        holds = bool(tests) and all(tests.values())
        held += holds
        table.add_row(number, row.attacker, row.attack, row.answer, str(len(tests)), _mark(holds))
    _OUT.print(table)
    for node in sorted({node for tests in by_row.values() for node, passed in tests.items() if not passed}):
        _OUT.print(f"FAILED {node}", markup=False)
    if done.returncode:
        _OUT.print(done.stdout[-3000:] + done.stderr[-2000:], markup=False)
    _OUT.print(f"attacks: {held} of {len(ROWS)} rows hold\n")
    return held == len(ROWS) and done.returncode == 0


def mutants(scratch: Path) -> bool:
    """Takes every check away in turn; each loss has to be noticed, by tests that pass without it."""
    if trouble := mutation.untouched(_ROOT, scratch):
        _OUT.print("the killing tests fail without any mutant\n" + trouble, markup=False)
        return False
    table = Table("file", "check", "instead", "s", "", title="Mutants")
    verdicts = list(mutation.judged(_ROOT, scratch))
    for each in verdicts:
        changed = each.mutant.old.strip()[:88], each.mutant.new.strip()[:40] or "(nothing)"
        shown = [text.replace("[", "\\[") for text in changed]
        table.add_row(
            each.mutant.file, *shown, f"{each.took_s:.1f}", each.how if each.how == "killed" else f"[red]{each.how}"
        )
    _OUT.print(table)
    killed = sum(each.how == "killed" for each in verdicts)
    _OUT.print(f"mutants: {killed} of {len(verdicts)} killed\n")
    return killed == len(verdicts)


def power_cuts(scratch: Path) -> bool:
    """The power goes after every durable act of a good and of a bad install; then the other hazards."""
    with ProcessPoolExecutor(2) as pool:
        runs = {name: list(pool.map(_half, [name] * 2, range(2), [scratch] * 2)) for name in _SCENARIOS}
    are_well = True
    for name, halves in runs.items():
        outcomes = sorted((each for half in halves for each in half), key=lambda each: each.number)
        table = Table("cut", "after", "at boot", "ended", "fetched again", "", title=f"Power cuts, {name} release")
        for each in outcomes:
            again = str(each.fetched_again)
            verdict = each.fault or "ok"
            table.add_row(str(each.number), each.act, each.at_boot, each.end, again, verdict)
        _OUT.print(table)
        well = sum(not each.fault for each in outcomes)
        _OUT.print(f"power cuts, {name} release: {well} of {len(outcomes)} as they should be\n")
        are_well &= well == len(outcomes) > 0
    return hazards(scratch) and are_well


def hazards(scratch: Path) -> bool:
    """Wrong clocks, disks that refuse, files that rotted."""
    table = Table("hazard", "meanwhile", "after", "", title="Hazards")
    are_well = True
    for number, (name, meet) in enumerate(HAZARDS.items()):
        seen = meet(Laboratory(scratch / f"hazard-{number}"))
        are_well &= seen.is_well
        table.add_row(name, seen.during, seen.after, _mark(seen.is_well))
    _OUT.print(table)
    return are_well


def _half(scenario: str, half: int, scratch: Path) -> list[Outcome]:
    bake, model_bytes = _SCENARIOS[scenario]
    laboratory = Laboratory(scratch / f"{scenario}-{half}", bake=bake, model_bytes=model_bytes)
    return [laboratory.cut(number + 1) for number in range(half, len(laboratory.acts()), 2)]


def _mark(holds: bool) -> str:
    return "[green]PASS" if holds else "[red]FAIL"


def main() -> int:
    parts: list[Callable[[Path], bool]] = [attacks, mutants, power_cuts]
    wanted = [part for part in parts if not sys.argv[1:] or part.__name__.replace("_", "-") in sys.argv[1:]]
    began, are_well = time.monotonic(), True
    logging.disable()  # what the agent logs about its troubles is no row of a table
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        for part in wanted:
            since = time.monotonic()
            are_well &= part(Path(folder))
            _OUT.print(f"({time.monotonic() - since:.0f} s)\n")
    _OUT.print(f"{'everything held' if are_well else 'NOT everything held'}, {time.monotonic() - began:.0f} s")
    return 0 if are_well else 1


if __name__ == "__main__":
    sys.exit(main())
