"""The assignment: what one device shall serve, signed by the director (SPEC 4.3), as a DSSE envelope.

TUF names the *plaintext* manifest with offline keys; the director names the *ciphertext* and the wrapped key with an online
key. A stolen director key can therefore choose among released models but never add one (Uptane's split of roles).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import Key, Signer, SSlibKey

from fleet_protocol import strict_json
from fleet_protocol.envelope import ALGORITHM, KEM_X25519
from fleet_protocol.errors import (
    BadSignature,
    MalformedAssignment,
    MalformedIdentifier,
    WrongPayloadType,
)
from fleet_protocol.identifiers import device_id, digest, fleet_id, slot_name

PAYLOAD_TYPE: Final = "application/vnd.edgefleet.assignment.v1+json"
DIRECTOR_TARGET: Final = "keys/director.json"
SCHEMA: Final = 1
MAX_ITEMS: Final = 16


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One slot's model. ``wrapped_key``: base64 of 80 bytes; ``blob_bytes``: length of the ciphertext."""

    slot: str
    target: str
    target_sha256: str
    blob_sha256: str
    blob_bytes: int
    encryption: str = ALGORITHM
    kem: str = KEM_X25519
    wrapped_key: str

    @property
    def wrapped(self) -> bytes:
        """The wrapped key's bytes; :func:`decode` made sure that they decode."""
        return base64.b64decode(self.wrapped_key)


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Desired state of one device: ``seq`` grows with each, ``iat``/``exp`` in Unix seconds."""

    schema: int = SCHEMA
    fleet: str
    device: str
    seq: int
    iat: int
    exp: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class DirectorKeys:
    """The online keys that may sign assignments, as the offline keys authorised them (``keys/director.json``)."""

    threshold: int
    keys: tuple[Key, ...]


def encode_director_keys(public_keys: Sequence[Key], threshold: int) -> bytes:
    """Bytes of the target ``keys/director.json``."""
    return strict_json.dumps({"threshold": threshold, "keys": {key.keyid: key.to_dict() for key in public_keys}})


def parse_director_keys(content: bytes) -> DirectorKeys:
    """Parse ``keys/director.json``; raises MalformedAssignment. Its bytes were a verified TUF target."""
    raw = strict_json.loads(content)
    try:
        keys = tuple(SSlibKey.from_dict(keyid, dict(entry)) for keyid, entry in raw["keys"].items())
        threshold = int(raw["threshold"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedAssignment("keys/director.json does not hold a threshold and keys") from error
    if not 1 <= threshold <= len(keys):
        raise MalformedAssignment(f"keys/director.json asks for {threshold} signatures of {len(keys)} keys")
    return DirectorKeys(threshold, keys)


def sign(assignment: Assignment, signers: Sequence[Signer]) -> bytes:
    """The signed envelope as it travels."""
    payload = strict_json.dumps(msgspec.to_builtins(assignment))
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    for signer in signers:
        envelope.sign(signer)
    return strict_json.dumps(envelope.to_dict())


def verified_payload(raw: bytes, director: DirectorKeys) -> bytes:
    """The payload of a signed envelope, after its signatures and type (SPEC 6.2.1-3); nothing of it was parsed yet."""
    outer = strict_json.loads(raw)
    envelope = _envelope(outer)
    try:
        envelope.verify(list(director.keys), director.threshold)
    except (SecureSystemsError, ValueError) as error:
        raise BadSignature(
            f"the assignment is not signed by {director.threshold} of this fleet's director keys"
        ) from error
    if envelope.payload_type != PAYLOAD_TYPE:
        # A signed statement of another kind must not be read as an assignment (DSSE protocol, "type confusion").
        raise WrongPayloadType(f"expected {PAYLOAD_TYPE}, got {envelope.payload_type[:80]!r}")
    return envelope.payload


def decode(payload: bytes) -> Assignment:
    """Parse a verified payload; raises MalformedAssignment, MalformedJson or InputTooLarge."""
    try:
        assignment = msgspec.convert(strict_json.loads(payload), Assignment, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedAssignment(f"assignment does not match SPEC 4.3: {error}") from error
    try:
        fleet_id(assignment.fleet)
        device_id(assignment.device)
        for item in assignment.items:
            _check_item(item)
    except MalformedIdentifier as error:
        raise MalformedAssignment(str(error)) from error
    _check_numbers(assignment)
    return assignment


def _check_numbers(assignment: Assignment) -> None:
    if assignment.schema != SCHEMA:
        raise MalformedAssignment(f"expected assignment schema {SCHEMA}, got {assignment.schema}")
    if not 0 < assignment.seq < 2**53 or not 0 < assignment.iat <= assignment.exp < 2**53:
        raise MalformedAssignment("seq, iat and exp are positive and iat is not after exp")
    slots = [item.slot for item in assignment.items]
    if len(slots) > MAX_ITEMS or len(set(slots)) != len(slots):
        raise MalformedAssignment(f"an assignment names at most {MAX_ITEMS} slots, each once")


def _check_item(item: Item) -> None:
    slot_name(item.slot)
    digest(item.target_sha256)
    digest(item.blob_sha256)
    if (item.encryption, item.kem) != (ALGORITHM, KEM_X25519):
        raise MalformedAssignment(f"this device opens {ALGORITHM} with {KEM_X25519}, got {item.encryption}, {item.kem}")
    try:
        base64.b64decode(item.wrapped_key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedAssignment("wrapped_key is not base64") from error
    if not 0 < item.blob_bytes < 2**53:
        raise MalformedAssignment(f"blob_bytes is positive, got {item.blob_bytes}")


def _envelope(outer: Any) -> Envelope:
    if not isinstance(outer, Mapping):
        raise MalformedAssignment("an assignment is a JSON object")
    try:
        return Envelope.from_dict(dict(outer))
    except (SecureSystemsError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise MalformedAssignment("not a DSSE envelope") from error
