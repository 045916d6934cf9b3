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


def test_both_first_boards_are_there() -> None:
    assert {"generic-x86_64.toml", "raspberry-pi-5.toml"} <= {entry.name for entry in FILES}


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("threads = 1", "treads = 1", "treads"),
        ('architecture = "x86_64"', 'architecture = "vax"', "architecture"),
        ("memory_mib = 4096", 'memory_mib = "4 GB"', "memory_mib"),
        ('precisions = ["int8", "fp32"]', "precisions = []", "precision"),
        ('name = "generic-x86_64"', 'name = "../x"', "board name"),
        ("[limits]", "[limits", "TOML"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, named: str) -> None:
    with pytest.raises(MalformedBoard, match=named):
        board.parse(TEXT.replace(old, new, 1))
