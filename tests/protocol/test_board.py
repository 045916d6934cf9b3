"""Board profiles (SPEC 2): every file loads, and a misspelt key never becomes a default."""

from importlib import resources

import pytest

from fleet_protocol import board
from fleet_protocol.errors import MalformedBoard

FILES = sorted(
    (entry for entry in resources.files("firmware_configs").iterdir() if entry.name.endswith(".toml")),
    key=lambda entry: entry.name,
)
TEXT = next(entry for entry in FILES if entry.name == "generic-x86_64.toml").read_text()


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry.name)
def test_every_board_loads_and_is_named_like_its_file(entry) -> None:  # type: ignore[no-untyped-def]
    assert board.parse(entry.read_text()).name == entry.name.removesuffix(".toml")


def test_the_boards_that_the_guide_names_are_there() -> None:
    assert {entry.name.removesuffix(".toml") for entry in FILES} >= {
        "generic-x86_64", "generic-aarch64", "raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano", "coral-dev-board",
        "intel-n100",
    }  # fmt: skip


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry.name)
def test_no_board_promises_more_than_it_has(entry) -> None:  # type: ignore[no-untyped-def]
    found = board.parse(entry.read_text())
    assert found.runtime.threads <= found.hardware.cores
    assert found.limits.worker_memory_mib < found.hardware.memory_mib


def test_no_key_has_a_default() -> None:
    """Each line of a board file, left out, is missed by name (SPEC 2.2)."""
    keys = [line.partition(" =")[0] for line in TEXT.splitlines() if " = " in line]
    assert len(keys) == 20
    for key in keys:
        without = "\n".join(line for line in TEXT.splitlines() if not line.startswith(f"{key} ="))
        with pytest.raises(MalformedBoard, match=key if key != "name" else "name|runtime"):
            board.parse(without)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("threads = 1", "treads = 1", "treads"),
        ('architecture = "x86_64"', 'architecture = "vax"', "architecture"),
        ("memory_mib = 4096", 'memory_mib = "4 GB"', "memory_mib"),
        ('precisions = ["int8", "fp32"]', "precisions = []", "precision"),
        ('name = "generic-x86_64"', 'name = "../x"', "board name"),
        ("[limits]", "[limits", "TOML"),
        ('accelerator = "none"', 'accelerator = "warp-core"', "accelerator"),
        ("cores = 2", "cores = 0", "cores"),
        ("health_interval_s = 30.0", "health_interval_s = -1.0", "health_interval_s"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, named: str) -> None:
    with pytest.raises(MalformedBoard, match=named):
        board.parse(TEXT.replace(old, new, 1))
