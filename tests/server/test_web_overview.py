"""What people are told: why a device is where it is, what a wave has come to, words for durations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fleet_protocol.identifiers import DeviceId
from fleet_protocol.states import DeploymentState
from fleet_server.ceremony import Founding
from fleet_server.fleet import Fleet
from fleet_server.rollout import policy as policies
from fleet_server.services import overview, records
from fleet_server.services.explanations import DeviceFacts, explain, span
from fleet_server.services.views import AttemptView, Explanation, ModelView, SlotView, WaveView
from fleet_server.web.rendering import segments, size, terms
from tests.server import kit
from tests.server.kit import SteppedClock
from tests.server.web_kit import INSTALL, Voice

OLD, NEW = ModelView("a" * 64, "orientation", "1.0.0", "int8"), ModelView("b" * 64, "orientation", "2.0.0", "int8")
BEHIND = SlotView("textline", OLD, NEW, is_desired=False, fps=9.0, p95_ms=4.0, frames=90, errors=0)
CONTENT = replace(BEHIND, serves=NEW, is_desired=True)
ATTEMPT = AttemptView(
    rollout_id=3, device_id="cam-1", wave=0, slot="textline", model=NEW, state="DOWNLOADING", state_since=900.0,
    assigned_at=890.0, confirmed_at=None, restored_at=None, code="", detail="",
)  # fmt: skip
FACTS = DeviceFacts("online", 990.0, (BEHIND,), (ATTEMPT,), assignment_seq=4, assignment_published_at=890.0)


def why(facts: DeviceFacts) -> Explanation:
    return explain(facts, now=1000.0)


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (replace(FACTS, presence="revoked"), "blocked", "revoked"),
        (replace(FACTS, slots=()), "waiting", "No rollout has assigned"),
        (replace(FACTS, slots=(CONTENT,), attempts=()), "up-to-date", "serves orientation 2.0.0"),
        (FACTS, "updating", "DOWNLOADING with orientation 2.0.0 (bbbbbbbbbbbb) for 100 s"),
        (replace(FACTS, presence="offline", last_seen=700.0), "waiting", "offline for 5 min"),
        (replace(FACTS, presence="silent", last_seen=700.0), "waiting", "connected but silent for 5 min"),
        (replace(FACTS, presence="never", last_seen=None), "waiting", "never connected"),
        (replace(FACTS, assignment_published_at=None), "waiting", "Assignment 4 is signed but not yet at the broker"),
        (replace(FACTS, attempts=(replace(ATTEMPT, state="IDLE"),)), "waiting", "not taken up its assignment in 100 s"),
        (replace(FACTS, attempts=(replace(ATTEMPT, state="COMMITTED"),)), "waiting", "no heartbeat serves"),
        (
            replace(FACTS, attempts=(replace(ATTEMPT, state="FAILED", code="golden-frames-differ", detail="3 of 8"),)),
            "blocked",
            "golden-frames-differ: 3 of 8",
        ),
        (replace(FACTS, attempts=(replace(ATTEMPT, code="state-timed-out"),)), "blocked", "gave up on"),
        (
            replace(FACTS, slots=(replace(CONTENT, serves=OLD, desired=OLD),),
                    attempts=(replace(ATTEMPT, state="ROLLED_BACK", code="bake-failed"),)),
            "up-to-date",
            "serves orientation 1.0.0 (aaaaaaaaaaaa), as it should; orientation 2.0.0 (bbbbbbbbbbbb) ended ROLLED_BACK",
        ),
        (replace(FACTS, attempts=()), "updating", "shall serve orientation 2.0.0"),
    ],
)  # fmt: skip
def test_the_first_reason_that_holds_is_told(facts: DeviceFacts, verdict: str, words: str) -> None:
    told = why(facts)
    assert told.verdict == verdict
    assert words in told.sentence
    assert told.sentence.endswith(".")


def test_every_state_of_a_deployment_is_explained() -> None:
    for state in DeploymentState:
        told = why(replace(FACTS, attempts=(replace(ATTEMPT, state=state),)))
        assert told.verdict in {"updating", "waiting", "blocked"}, state


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_a_duration_has_one_unit(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB")]
)
def test_bytes_are_told_in_binary_units(count: int | None, words: str) -> None:
    assert size(count) == words


def test_a_policy_is_told_in_words() -> None:
    told = dict(
        terms({"bake_s": 60.0, "success_threshold": 0.985, "auto_rollback": True, "max_in_flight": 5, "waves": []})
    )
    assert told == {"bake": "60 s", "success threshold": "98.50%", "auto rollback": "yes", "max in flight": "5"}


WAVE = WaveView(
    number=0, title="canary", state="RUNNING", members=10, assigned=8, confirmed=4, in_flight=2, failed=1, timed_out=1,
    restored=0, opened_at=0.0, baking_since=None, finished_at=None, bake_left_s=None, verdict="",
)  # fmt: skip


def test_a_bar_shows_what_is_known_and_leaves_the_rest_empty() -> None:
    parts = segments(WAVE)
    assert [(part.kind, part.x, part.width) for part in parts] == [
        ("ok", 0, 400), ("run", 400, 200), ("bad", 600, 100), ("late", 700, 100),
    ]  # fmt: skip


def test_a_bar_never_overflows_when_devices_joined_late() -> None:
    parts = segments(replace(WAVE, members=2))
    assert parts[-1].x + parts[-1].width <= 1000


# --- from a real registry --------------------------------------------------------------------------------------------
@pytest.fixture
def rolled_out(fleet: Fleet, founding: Founding, tmp_path: Path) -> tuple[int, str]:
    """A rollout of one wave over four devices, all assigned; its id and the manifest."""
    for number in range(4):
        kit.enrol(fleet, f"cam-{number}")
        voice = Voice(fleet, DeviceId(f"cam-{number}"))
        voice.online()
        voice.health()
    made = kit.release(fleet, founding, tmp_path)
    policy = policies.parse({"waves": [{"title": "all", "size": "100%"}], "bake_s": 60.0, "auto_rollback": False})
    rollout = fleet.rollouts.create(made.id, "all", policy, "", "tester")
    fleet.rollouts.start(rollout.id, "tester", "")
    fleet.rollouts.tick(fleet.clock())
    return rollout.id, kit.manifest_of(fleet, made)


def wave_of(fleet: Fleet, rollout: int) -> WaveView:
    with fleet.readers() as db:
        return records.rollout_view(db, rollout, now=fleet.clock()).waves[0]


def test_a_wave_counts_only_what_heartbeats_prove(fleet: Fleet, rolled_out: tuple[int, str]) -> None:
    rollout, manifest = rolled_out
    assert (wave_of(fleet, rollout).assigned, wave_of(fleet, rollout).in_flight) == (4, 4)
    committed, proven, failed, _ = voices = [Voice(fleet, DeviceId(f"cam-{number}"), seq=1) for number in range(4)]
    for voice in (committed, proven):
        voice.deployment(manifest, *INSTALL, assignment=1, served=manifest)
    proven.health(manifest, assignment=1)
    failed.deployment(manifest, "OFFERED", "PREFLIGHT", "FAILED", assignment=1, code="disk-full", detail="no room")
    wave = wave_of(fleet, rollout)
    assert (wave.confirmed, wave.failed, wave.in_flight, len(voices)) == (1, 1, 2, 4)


def test_a_wave_counts_silence_apart_from_failure(
    fleet: Fleet, rolled_out: tuple[int, str], clock: SteppedClock
) -> None:
    rollout, _ = rolled_out
    clock.advance(24 * 3600)
    for number in range(4):
        Voice(fleet, DeviceId(f"cam-{number}"), seq=1).health(assignment=1)
    fleet.rollouts.tick(clock())
    wave = wave_of(fleet, rollout)
    assert (wave.timed_out, wave.failed, wave.in_flight) == (4, 0, 0)


def test_a_revoked_device_is_evidence_of_nothing(fleet: Fleet, rolled_out: tuple[int, str]) -> None:
    rollout, _ = rolled_out
    fleet.enrolment.revoke(DeviceId("cam-0"), "tester", "stolen")
    assert wave_of(fleet, rollout).assigned == 3


def test_the_counts_add_up(fleet: Fleet, rolled_out: tuple[int, str]) -> None:
    _, manifest = rolled_out
    kit.enrol(fleet, "cam-new")
    Voice(fleet, DeviceId("cam-0"), seq=1).health(manifest, assignment=1)
    Voice(fleet, DeviceId("cam-1")).online(False)
    fleet.enrolment.revoke(DeviceId("cam-3"), "tester", "stolen")
    with fleet.readers() as db:
        counts = overview.counts(db)
    assert (counts.devices, counts.online, counts.revoked) == (4, 2, 1)
    assert (counts.on_target, counts.behind, counts.unassigned) == (1, 2, 1)


def test_a_connected_device_that_stopped_reporting_is_silent(
    fleet: Fleet, rolled_out: tuple[int, str], clock: SteppedClock
) -> None:
    assert rolled_out
    clock.advance(overview.SILENT_AFTER_S + 1)
    with fleet.readers() as db:
        page = overview.device_page(db, now=clock(), limit=1)
    assert (page.devices[0].online, page.devices[0].presence) == (True, "silent")


def test_a_device_that_serves_what_it_should_not_is_behind(fleet: Fleet, founding: Founding, tmp_path: Path) -> None:
    """A slot that nothing names any more must be empty."""
    kit.enrol(fleet, "cam-1")
    manifest = kit.manifest_of(fleet, kit.release(fleet, founding, tmp_path))
    Voice(fleet, DeviceId("cam-1")).health(manifest)
    with fleet.readers() as db:
        slot = overview.device_detail(db, "cam-1", now=fleet.clock()).device.slots[0]
    assert slot.serves is not None
    assert (slot.serves.version, slot.desired, slot.is_desired) == ("1.0.0", None, False)
