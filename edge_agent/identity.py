"""Who this device is, and how a record of the journal becomes a model that can be served."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edge_agent.ports import SealedModel
from edge_agent.records import ModelRecord
from fleet_protocol.envelope import unwrap_key
from fleet_protocol.identifiers import DeviceId, FleetId


@dataclass(frozen=True, slots=True)
class Identity:
    """What enrolment left behind. ``root``: the TUF root that the claim pinned, as it was signed."""

    fleet: FleetId
    device: DeviceId
    hpke_key: X25519PrivateKey = field(repr=False)
    root: bytes = field(repr=False)


def sealed_model(record: ModelRecord, identity: Identity, blob: Path) -> SealedModel:
    """The model of a record with its content key. Raises KeyNotForThisDevice or DamagedJournal."""
    manifest = record.parsed()
    key = unwrap_key(
        record.item.wrapped, identity.hpke_key, identity.fleet, identity.device, record.digest, record.blob
    )
    return SealedModel(manifest, record.digest, blob, key)
