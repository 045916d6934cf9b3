"""A copied device: one identity, two machines, noticed by the server and told to people (row 27 of the attack table)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from fleet_server.clones import ALARM, MAX_EARLIER, Boots, CloneWatch, follow
from fleet_server.db.models import Audit
from fleet_server.services import overview
from tests.server.rollout_world import NOW, World, health, incoming

pytestmark = pytest.mark.attack("27")


def contradictions(reports: Sequence[tuple[str, int]]) -> list[bool]:
    boots: Boots | None = None
    found = []
    for boot_id, seq in reports:
        boots, is_contradiction = follow(boots, boot_id, seq)
        found.append(is_contradiction)
    return found


@pytest.mark.parametrize(
    "reports",
    [
        [("a", 1), ("a", 2), ("b", 3), ("c", 4)],
        [("a", 1), ("b", 4), ("a", 2), ("a", 3), ("b", 5)],  # what the first boot had spooled comes later
        [("a", 1), ("a", 1), ("b", 2), ("a", 1)],  # delivered twice
    ],
)
def test_one_machine_that_restarts_raises_no_alarm(reports: list[tuple[str, int]]) -> None:
    assert not any(contradictions(reports))


@pytest.mark.parametrize(
    "reports",
    [
        [("a", 7), ("b", 8), ("a", 9)],
        [("a", 7), ("b", 3), ("a", 8)],  # the copy was made from an older backup
        [("a", 7), ("b", 8), ("b", 9), ("b", 10), ("a", 11)],
    ],
)
def test_an_earlier_boot_that_goes_on_counting_is_a_second_machine(reports: list[tuple[str, int]]) -> None:
    assert contradictions(reports) == [*[False] * (len(reports) - 1), True]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_no_order_of_restarts_of_one_machine_is_an_alarm(lengths: list[int]) -> None:
    reports, seq = [], 0
    for boot, length in enumerate(lengths):
        for _ in range(length):
            seq += 1
            reports.append((f"boot-{boot}", seq))
    assert not any(contradictions(reports))


def test_what_is_remembered_of_a_device_is_bounded() -> None:
    boots: Boots | None = None
    for number in range(50):
        boots, _ = follow(boots, f"boot-{number}", number)
    assert boots is not None
    assert len(boots.earlier) == MAX_EARLIER


def test_devices_are_watched_apart() -> None:
    watch = CloneWatch()
    for device in ("cam-1", "cam-2"):
        assert watch.hear(device, "a", 1) == ""  # type: ignore[arg-type]
    assert watch.hear("cam-1", "b", 2) == ""  # type: ignore[arg-type]
    assert watch.hear("cam-2", "a", 3) == ""  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.enrol("cam-1")
    yield made
    made.close()


def alarms(world: World) -> list[tuple[str, str]]:
    with world.registry.readers() as session:
        return [(row.who, row.reason) for row in session.scalars(select(Audit).where(Audit.action == ALARM))]


def speak(world: World, boot_id: str, seq: int, at: float) -> None:
    report = msgspec.structs.replace(health(seq=seq, at=at, served="", assignment_seq=0), boot_id=boot_id)
    world.ingest.apply([incoming("cam-1", report)], at)


def test_a_copied_device_is_audited_once_an_hour_and_said_to_people(world: World) -> None:
    for number, boot_id in enumerate(["original", "the-copy", "original", "the-copy", "original"]):
        speak(world, boot_id, number + 1, NOW + number)

    ((who, reason),) = alarms(world)
    assert who == "cam-1"
    assert "boots the-copy and original both report as this device" in reason
    with world.registry.readers() as session:
        why = overview.device_detail(session, "cam-1", now=NOW + 10).why
        later = overview.device_detail(session, "cam-1", now=NOW + 2 * 86_400).why
    assert (why.verdict, "Two machines use its identity" in why.sentence) == ("blocked", True)
    assert "Two machines" not in later.sentence

    speak(world, "the-copy", 9, NOW + 4000)
    assert len(alarms(world)) == 2, "while both run it is said again"


def test_a_restart_of_the_agent_is_no_alarm(world: World) -> None:
    for number, boot_id in enumerate(["first", "first", "second", "second"]):
        speak(world, boot_id, number + 1, NOW + number)
    assert alarms(world) == []
