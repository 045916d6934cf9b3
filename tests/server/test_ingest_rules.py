"""What is believed of a report and of a heartbeat: pure rules, all of the state table."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol import messages
from fleet_protocol.errors import MalformedInput
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import DeviceId, Digest
from fleet_protocol.messages import DeploymentReport, HealthReport, Message, MissingChunks
from fleet_protocol.states import NEXT, TERMINAL, DeploymentState
from fleet_protocol.topics import ASSIGNMENT, DEPLOYMENT, HEALTH, MISSING, UP_TOPICS, DeviceTopic
from fleet_server import ingest as rules
from fleet_server.ingest import Attempt, Repeated, Sign
from fleet_server.ports import Incoming
from fleet_server.rollout.view import Custody, custody
from tests.server.rollout_world import NOW, SLOT, health

NEW, OLD = Digest("a" * 64), Digest("b" * 64)
S = DeploymentState
ATTEMPT = Attempt(
    manifest=NEW, assignment_seq=5, state=S.DOWNLOADING, execution=2, version=3, is_given_up=False, is_confirmed=False,
    is_restored=False, custody=Custody.OURS,
)  # fmt: skip


def report(state: DeploymentState, execution: int = 2, version: int = 4, **changes: object) -> DeploymentReport:
    fields = {"assignment_seq": 5, "slot": SLOT, "manifest_sha256": NEW, "at": NOW}
    return DeploymentReport(state=state, execution=execution, version=version, **(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("before", "after"), list(product(DeploymentState, DeploymentState)))
def test_an_attempt_moves_only_along_the_table(before: DeploymentState, after: DeploymentState) -> None:
    fault = rules.disbelief(replace(ATTEMPT, state=before), report(after))

    assert (fault == "") == (after in NEXT[before])


@pytest.mark.parametrize(("state", "execution"), list(product(sorted(TERMINAL), [2, 3])))
def test_a_terminal_state_never_moves_whatever_comes_after(state: DeploymentState, execution: int) -> None:
    for after, version in product(DeploymentState, range(4, 12)):
        fault = rules.disbelief(replace(ATTEMPT, state=state), report(after, execution, version))
        assert fault == f"{state} is final"


def test_an_older_report_is_not_believed() -> None:
    assert "not after attempt 2, report 3" in rules.disbelief(ATTEMPT, report(S.PREFLIGHT, 2, 2))
    assert "not after attempt 2, report 3" in rules.disbelief(ATTEMPT, report(S.VERIFIED, 1, 99))
    assert "not after attempt 2, report 3" in rules.disbelief(ATTEMPT, report(S.VERIFIED, 2, 3))


def test_the_newest_report_repeated_is_no_news_and_no_fault() -> None:
    with pytest.raises(Repeated):
        rules.disbelief(ATTEMPT, report(S.DOWNLOADING, 2, 3))


def test_steps_lost_on_the_way_are_forgiven_but_not_impossible_ones() -> None:
    assert rules.disbelief(ATTEMPT, report(S.BAKING, 2, 9)) == ""
    assert rules.disbelief(ATTEMPT, report(S.BAKING, 2, 4)) == "BAKING cannot follow DOWNLOADING"
    assert rules.disbelief(ATTEMPT, report(S.OFFERED, 2, 9)) == "OFFERED cannot follow DOWNLOADING"


def test_a_new_attempt_begins_anew() -> None:
    assert rules.disbelief(ATTEMPT, report(S.OFFERED, 3, 1)) == ""
    assert rules.disbelief(ATTEMPT, report(S.COMMITTED, 3, 1)) == "COMMITTED cannot follow IDLE"


def test_what_the_server_gave_up_stays_given_up() -> None:
    given_up = replace(ATTEMPT, state=S.FAILED, is_given_up=True)

    assert rules.disbelief(given_up, report(S.COMMITTED, 2, 9)) == "FAILED is final"
    with pytest.raises(Repeated):  # what the device last said is no contradiction to it
        rules.disbelief(given_up, report(S.DOWNLOADING, 2, 3))


def beat(attempt: Attempt, served: str, accepted: int = 5, issued: int = 5) -> Sign:
    return rules.read_heartbeat(attempt, served, accepted_seq=accepted, issued_seq=issued)


def test_a_heartbeat_confirms_what_it_serves() -> None:
    assert beat(ATTEMPT, NEW) is Sign.CONFIRMED
    assert beat(replace(ATTEMPT, is_confirmed=True), NEW) is Sign.NOTHING_NEW
    assert beat(ATTEMPT, OLD) is Sign.NOTHING_NEW
    assert beat(ATTEMPT, NEW, accepted=4) is Sign.NOTHING_NEW, "from before this assignment"


def test_a_heartbeat_withdraws_what_it_no_longer_serves() -> None:
    assert beat(replace(ATTEMPT, is_confirmed=True), OLD) is Sign.NOT_SERVED
    assert beat(replace(ATTEMPT, is_confirmed=True), "") is Sign.NOT_SERVED
    assert beat(replace(ATTEMPT, is_confirmed=True, custody=Custody.OTHER), OLD) is Sign.NOTHING_NEW


def test_a_device_has_returned_only_once_it_heard_of_the_return() -> None:
    returned = replace(ATTEMPT, custody=Custody.RETURNED)

    assert beat(returned, OLD, accepted=5, issued=6) is Sign.NOTHING_NEW
    assert beat(returned, OLD, accepted=6, issued=6) is Sign.RESTORED
    assert beat(returned, "", accepted=6, issued=6) is Sign.RESTORED
    assert beat(returned, NEW, accepted=6, issued=6) is Sign.NOTHING_NEW
    assert beat(replace(returned, is_restored=True), NEW, accepted=6, issued=6) is Sign.SERVED_AGAIN


@pytest.mark.parametrize(
    ("desired", "by", "is_live", "expected"),
    [
        (NEW, 1, True, Custody.OURS),
        (NEW, 1, False, Custody.OURS),
        (NEW, 2, True, Custody.OURS),
        (NEW, 2, False, Custody.OTHER),
        (OLD, 1, False, Custody.RETURNED),
        (OLD, 2, True, Custody.OTHER),
        (OLD, None, True, Custody.OTHER),
        (None, None, False, Custody.RETURNED),
    ],
)
def test_who_decides_about_a_slot(desired: Digest | None, by: int | None, is_live: bool, expected: Custody) -> None:
    assert custody(NEW, 1, desired=desired, desired_by=by, is_live=is_live) is expected


def decoded(topic: DeviceTopic, message: Message | bytes) -> Message:
    payload = message if isinstance(message, bytes) else messages.encode(message)
    return rules.decode(Incoming(DeviceId("cam-1"), topic, payload, is_json=False))


GOOD = health(seq=1, at=NOW, served=NEW, assignment_seq=5)


def slots_with(**changes: object) -> HealthReport:
    return msgspec.structs.replace(GOOD, slots=(msgspec.structs.replace(GOOD.slots[0], **changes),))


@pytest.mark.parametrize(
    "hostile",
    [
        msgspec.structs.replace(GOOD, seq=0),
        msgspec.structs.replace(GOOD, seq=2**53),
        msgspec.structs.replace(GOOD, at=float("nan")),
        msgspec.structs.replace(GOOD, cpu_percent=float("inf")),
        msgspec.structs.replace(GOOD, temperature_celsius=float("nan")),
        msgspec.structs.replace(GOOD, memory_used_bytes=2**63),
        msgspec.structs.replace(GOOD, assignment_seq=-1),
        msgspec.structs.replace(GOOD, fingerprint=Fingerprint("b" * 65, "r", "1", "a")),
        msgspec.structs.replace(GOOD, slots=GOOD.slots * 2),
        msgspec.structs.replace(
            GOOD, slots=tuple(msgspec.structs.replace(GOOD.slots[0], slot=f"s{number}") for number in range(17))
        ),
        slots_with(slot="../etc"),
        slots_with(served_sha256="cafe"),
        slots_with(latency=b"\xff\xff\xff"),
        slots_with(latency=b""),
        slots_with(fps=float("nan")),
        slots_with(frames=-1),
    ],
)
def test_a_health_report_with_impossible_numbers_is_refused(hostile: HealthReport) -> None:
    assert decoded(HEALTH, GOOD) == GOOD
    with pytest.raises(MalformedInput):
        decoded(HEALTH, hostile)


@pytest.mark.parametrize(
    "changes",
    [{"manifest_sha256": "x"}, {"slot": "A/B"}, {"assignment_seq": -1}, {"execution": 2**60}, {"at": float("nan")}],
)
def test_a_deployment_report_with_impossible_values_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedInput):
        decoded(DEPLOYMENT, msgspec.structs.replace(report(S.OFFERED), **changes))


def test_devices_cannot_write_what_the_server_says() -> None:
    with pytest.raises(MalformedInput, match="do not write assignment"):
        decoded(ASSIGNMENT, b"{}")
    with pytest.raises(MalformedInput):
        decoded(MISSING, MissingChunks(blob_sha256="x", blob_bytes=1, bitmap=b""))


@given(st.sampled_from(UP_TOPICS), st.binary(max_size=300), st.booleans())
def test_no_bytes_break_the_decoder(topic: DeviceTopic, payload: bytes, is_json: bool) -> None:
    try:
        message = rules.decode(Incoming(DeviceId("cam-1"), topic, payload, is_json))
    except MalformedInput:
        return
    assert topic.message is not None
    assert isinstance(message, topic.message)


def test_a_clock_that_cannot_be_right_is_replaced_by_the_servers() -> None:
    for at, kept in [(NOW - 60, NOW - 60), (0.0, NOW), (NOW + 3600, NOW), (NOW - 8 * 86_400, NOW)]:
        assert rules.history_time(msgspec.structs.replace(GOOD, at=at), NOW) == kept
