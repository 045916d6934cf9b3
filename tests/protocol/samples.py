"""Small, valid values of the contract that the tests change in one place."""

from __future__ import annotations

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from securesystemslib.signer import CryptoSigner

from fleet_protocol import assignment, envelope, trust
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import DeviceId, Digest, FleetId, digest_of
from fleet_protocol.manifest import (
    Golden,
    Manifest,
    Measured,
    Preprocessing,
    Provenance,
    RuntimeRequirement,
    TensorSpec,
    payload_of,
)
from fleet_protocol.tasks import Classification

FLEET, DEVICE = FleetId("acme"), DeviceId("cam-7")
FINGERPRINT = Fingerprint("generic-x86_64", "onnxruntime", "1.28.0", "x86_64")
NOW = 1_790_000_000


def manifest(**changes: object) -> Manifest:
    """A manifest of a 2-class model on 4x4 frames, its payload 40 KB of noise."""
    return sample(**changes)[0]


def sample(model_bytes: int = 40_000, **changes: object) -> tuple[Manifest, bytes]:
    """A manifest and the payload that it describes."""
    rng = np.random.default_rng(7)
    golden = rng.standard_normal(2 * (3 * 4 * 4 + 2)).astype("<f4").tobytes()
    described, payload = payload_of([("model", rng.bytes(model_bytes)), ("golden", golden)])
    made = Manifest(
        schema=1,
        model="orientation",
        version="1.0.0",
        variant="ort-int8",
        slot="textline",
        counter=7,
        boards=("generic-x86_64",),
        runtime=RuntimeRequirement(
            name="onnxruntime", min_version="1.17", architectures=("x86_64",), precision="int8"
        ),
        payload=described,
        inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 3, 4, 4)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(1, 2)),),
        preprocessing=Preprocessing(
            width=4, height=4, color="bgr", layout="nchw", resize="stretch", interpolation="bilinear",
            scale=1 / 255, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
        ),
        postprocessing=Classification(labels=("upright", "rotated"), activation="none"),
        golden=Golden(
            frames=2, atol=1e-4, rtol=1e-3, max_outliers=0.0, decisive=(True, False),
            latency_budget_ms={"generic-x86_64": 100.0},
        ),
        measured=Measured(
            metric="top-1", value=0.95, baseline=0.96, samples=100, latency_p50_ms=1.0, latency_p95_ms=2.0,
            model_bytes=model_bytes, resident_bytes=1,
        ),
        provenance=Provenance(
            source_sha256="0" * 64, calibration_sha256="1" * 64, evaluation_sha256="2" * 64, toolchain={"onnx": "1"}
        ),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes), payload


class Director:
    """Online keys and what they sign."""

    def __init__(self) -> None:
        self.signer = CryptoSigner.generate_ed25519()
        self.keys = assignment.parse_director_keys(assignment.encode_director_keys([self.signer.public_key], 1))

    def sign(self, items: tuple[assignment.Item, ...] = (), **changes: object) -> bytes:
        fields = {"fleet": FLEET, "device": DEVICE, "seq": 5, "iat": NOW, "exp": NOW + 86_400, "items": items}
        return assignment.sign(assignment.Assignment(**(fields | changes)), [self.signer])  # type: ignore[arg-type]


class Sealed:
    """A sealed sample with the item that assigns it to ``private``'s device."""

    def __init__(self, made: Manifest, payload: bytes, private: X25519PrivateKey, device: DeviceId = DEVICE) -> None:
        self.manifest, self.content = made, made.encode()
        self.digest = digest_of(self.content)
        self.key = envelope.generate_key()
        self.blob = b"".join(envelope.seal([payload], self.key, self.digest))
        self.blob_digest = digest_of(self.blob)
        wrapped = envelope.wrap_key(self.key, private.public_key(), FLEET, device, self.digest, self.blob_digest)
        self.item = item_of(made, self.digest, self.blob_digest, len(self.blob), wrapped)
        self.target = trust.Target(made.target_path, self.digest, len(self.content), 1)


def item_of(made: Manifest, digest: Digest, blob: Digest, blob_bytes: int, wrapped: bytes) -> assignment.Item:
    import base64

    return assignment.Item(
        slot=made.slot, target=made.target_path, target_sha256=digest, blob_sha256=blob, blob_bytes=blob_bytes,
        wrapped_key=base64.b64encode(wrapped).decode(),
    )  # fmt: skip
