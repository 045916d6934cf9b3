"""compile → sign → encrypt → publish → verify → decrypt → install → infer → report → show, with separate processes."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from fleet_protocol import envelope, package, topics
from fleet_protocol.errors import ChunkTampered, KeyNotForThisDevice
from fleet_protocol.identifiers import DeviceId, Digest, FleetId
from fleet_server.demo.programs import wait_until
from tests.e2e import plaintext
from tests.e2e.conftest import World
from tests.e2e.eavesdropper import Eavesdropper, hpke_key


def assigned_item(world: World, device: str) -> dict:
    """The item that the server assigned to ``device``, from its registry."""
    import base64

    with sqlite3.connect(world.server.state / "fleet.db") as registry:
        (raw,) = registry.execute("select envelope from assignment where device_id = ?", (device,)).fetchone()
    registry.close()
    return json.loads(base64.b64decode(json.loads(raw)["payload"]))["items"][0]


@pytest.mark.attack("14")
def test_a_model_goes_the_whole_way_and_nobody_else_can_read_it(world: World, package_v1: Path) -> None:
    camera = world.device("cam-1")
    thief = world.device("thief", start=False)
    with package_v1.open("rb") as stream:  # compile happened in the fixture, by the real compiler
        variant = package.read(stream).variants[0]
        payload = b"".join(package.read_payload(stream, variant.manifest.variant))

    with Eavesdropper(thief, world.server) as eavesdropper:
        world.release(package_v1)  # sign, encrypt
        rollout = world.roll_out("1.0.0", "--selector", "id=cam-1")  # publish
        finished = world.wait_state(rollout, "FINISHED")  # verify, decrypt, install
        wait_until(camera.results, "results were written")  # infer
        wait_until(lambda: world.served("cam-1") == variant.digest, "the heartbeat said so")  # report
        item = assigned_item(world, "cam-1")
        chunks = envelope.message_count(item["blob_bytes"])
        eavesdropper.wait_for(topics.chunk_topic(Digest(item["blob_sha256"]), chunks - 1))
        heard = eavesdropper.heard()

    assert finished["waves"][0]["state"] == "PASSED"
    assert camera.results()[0]["manifest"] == variant.digest
    assert camera.results()[0]["label"] in {"upright", "rotated"}
    assert "1.0.0" in world.server.ctl("device", "list")  # show

    blocks = plaintext.telling_blocks(payload)
    assert len(blocks) > 1000
    assert plaintext.leaking_files(blocks, [camera.home, world.server.state]) == []
    assert len(heard) >= chunks
    assert [topic for topic, content in heard.items() if plaintext.leaks(blocks, content)] == []

    the_blob = b"".join(heard[topics.chunk_topic(Digest(item["blob_sha256"]), index)] for index in range(chunks))
    check_thief_cannot_open(item, the_blob, thief.state)


def check_thief_cannot_open(item: dict, blob: bytes, thief_state: Path) -> None:
    import base64

    manifest, digest = Digest(item["target_sha256"]), Digest(item["blob_sha256"])
    private = hpke_key(thief_state)
    for device in ("cam-1", "thief"):
        with pytest.raises(KeyNotForThisDevice):
            envelope.unwrap_key(
                base64.b64decode(item["wrapped_key"]), private, FleetId("acme"), DeviceId(device), manifest, digest
            )
    with pytest.raises(ChunkTampered):
        b"".join(envelope.open_blob([blob], bytes(32), manifest))
