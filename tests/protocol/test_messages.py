"""What devices say (SPEC 10.1): pinned bytes, appended fields, hostile bytes."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol import messages
from fleet_protocol.errors import InputTooLarge, MalformedInput, MalformedMessage
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.messages import DeploymentReport, HealthReport, MissingChunks, Presence, SlotHealth
from fleet_protocol.states import DeploymentState

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "messages.json").read_text())

SAMPLES = {
    "health": HealthReport(
        seq=9, at=1.5, boot_id="b", agent_version="0.1.0", uptime_s=2.0, cpu_percent=3.0, memory_used_bytes=4,
        fingerprint=Fingerprint("generic-x86_64", "onnxruntime", "1.28.0", "x86_64"), memory_total_bytes=5,
        agent_rss_bytes=6, disk_free_bytes=7, temperature_celsius=None, assignment_seq=8, root_version=1,
        timestamp_version=2, trusted_time=3.0, clock_offset_s=0.0, spool_depth=0, spool_dropped=0,
        slots=(SlotHealth(slot="s", served_sha256="d", model="m", version="1", frames=1, errors=0, dropped=0, fps=1.0,
                          latency=b"\x00", predictions=(1, 0)),),
    ),
    "deployment": DeploymentReport(
        assignment_seq=1, execution=2, version=3, slot="s", manifest_sha256="d", state=DeploymentState.BAKING, at=1.0,
        code="", detail="", chunks_done=4, chunks_total=5, served_sha256="e",
    ),
    "missing": MissingChunks(blob_sha256="d", blob_bytes=100, bitmap=b"\x05"),
    "presence": Presence(online=True, boot_id="b", agent_version="0.1.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_the_bytes_on_the_wire_are_pinned(name: str) -> None:
    message = SAMPLES[name]
    assert messages.encode(message).hex() == VECTORS[name]
    assert messages.decode(bytes.fromhex(VECTORS[name]), type(message)) == message
    assert messages.decode(messages.encode_json(message), type(message), is_json=True) == message


def test_a_newer_device_may_append_fields() -> None:
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(messages.encode(SAMPLES["missing"])), "new", 7])
    assert messages.decode(longer, MissingChunks) == SAMPLES["missing"]


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x90", b"\x91\x00", msgspec.msgpack.encode([0, "d", 1, b""])])
def test_another_shape_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedMessage):
        messages.decode(content, MissingChunks)


def test_a_message_over_the_limit_is_not_parsed() -> None:
    with pytest.raises(InputTooLarge):
        messages.decode(bytes(messages.MAX_BYTES + 1), MissingChunks)


@given(
    st.binary(max_size=300), st.booleans(), st.sampled_from([HealthReport, DeploymentReport, MissingChunks, Presence])
)
def test_any_bytes_give_a_message_or_a_refusal(content: bytes, is_json: bool, kind: type[messages.Message]) -> None:
    try:
        messages.decode(content, kind, is_json=is_json)
    except MalformedInput:
        pass
