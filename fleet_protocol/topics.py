"""Every MQTT topic of edgefleet; a topic string anywhere else is a defect (SPEC 7.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fleet_protocol.errors import MalformedIdentifier
from fleet_protocol.identifiers import DeviceId, Digest, device_id, digest
from fleet_protocol.messages import DeploymentReport, HealthReport, Message, MissingChunks, Presence

PREFIX: Final = "edgefleet/v1"
JSON_SUFFIX: Final = "/json"


@dataclass(frozen=True, slots=True)
class DeviceTopic:
    """A topic with one instance per device. ``name`` is the last part, ``up`` tells who writes it."""

    name: str
    up: bool
    qos: int
    retain: bool
    meaning: str
    message: type[Message] | None = None

    def of(self, device: DeviceId) -> str:
        """The topic of one device."""
        return f"{PREFIX}/d/{device}/{'up' if self.up else 'down'}/{self.name}"

    @property
    def filter(self) -> str:
        """The subscription that matches every device's instance."""
        return f"{PREFIX}/d/+/{'up' if self.up else 'down'}/{self.name}"


ASSIGNMENT: Final = DeviceTopic(
    "assignment", up=False, qos=1, retain=True,
    meaning="Server to device: the desired state, a DSSE envelope (SPEC 4.3). The newest seq wins.",
)  # fmt: skip
HEALTH: Final = DeviceTopic(
    "health", up=True, qos=1, retain=False, message=HealthReport,
    meaning="Device to server, every health_interval_s and when a slot's served digest changes.",
)  # fmt: skip
DEPLOYMENT: Final = DeviceTopic(
    "deployment", up=True, qos=1, retain=False, message=DeploymentReport,
    meaning="Device to server, at each change of a deployment's state.",
)  # fmt: skip
MISSING: Final = DeviceTopic(
    "missing", up=True, qos=1, retain=False, message=MissingChunks,
    meaning="Device to server: these chunks did not come; please publish them again.",
)  # fmt: skip
PRESENCE: Final = DeviceTopic(
    "presence", up=True, qos=1, retain=True, message=Presence,
    meaning="Device to server: online, or (the broker's last will) gone.",
)  # fmt: skip

DEVICE_TOPICS: Final = (ASSIGNMENT, HEALTH, DEPLOYMENT, MISSING, PRESENCE)
UP_TOPICS: Final = tuple(topic for topic in DEVICE_TOPICS if topic.up)

METADATA: Final = f"{PREFIX}/meta/tuf"
"""Retained: the zlib bundle of all TUF metadata and of keys/director.json (SPEC 4.4)."""


def manifest_topic(manifest: Digest) -> str:
    """Retained: the bytes of one manifest (SPEC 4.4)."""
    return f"{PREFIX}/meta/manifest/{manifest}"


def chunk_topic(blob: Digest, index: int) -> str:
    """Retained: one message of a blob (SPEC 7.2)."""
    return f"{PREFIX}/blob/{blob}/{index}"


_CHUNK: Final = re.compile(re.escape(PREFIX) + r"/blob/([0-9a-f]{64})/(\d{1,7})")
_DEVICE: Final = re.compile(re.escape(PREFIX) + r"/d/([^/]+)/(up|down)/([a-z]+)(/json)?")


def parse_chunk_topic(topic: str) -> tuple[Digest, int]:
    """Blob and index of a chunk's topic; raises MalformedIdentifier."""
    match = _CHUNK.fullmatch(topic)
    if match is None:
        raise MalformedIdentifier(f"not a chunk topic: {topic[:120]!r}")
    return digest(match[1]), int(match[2])


def parse_device_topic(topic: str) -> tuple[DeviceId, DeviceTopic, bool]:
    """Device, registered topic and whether the payload is JSON; raises MalformedIdentifier."""
    match = _DEVICE.fullmatch(topic)
    if match is not None:
        for known in DEVICE_TOPICS:
            if known.name == match[3] and known.up == (match[2] == "up"):
                return device_id(match[1]), known, match[4] is not None
    raise MalformedIdentifier(f"not a device topic: {topic[:120]!r}")


def access_rules() -> str:
    """The broker's ACL (Mosquitto ``acl_file``): a device has its own subtree and the shared topics, nothing else."""
    return (
        f"user fleet-server\ntopic readwrite {PREFIX}/#\ntopic read $SYS/#\n\n"
        f"pattern write {PREFIX}/d/%u/up/#\npattern read {PREFIX}/d/%u/down/#\n"
        f"pattern read {PREFIX}/meta/#\npattern read {PREFIX}/blob/+/+\n"
    )
