"""Signing a release, on the release engineer's machine (SPEC 4.2). Pure: the server never sees these keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import TargetFile, Targets

from fleet_protocol.errors import BelowSecurityFloor, Conflict, MalformedInput, NotFound
from fleet_protocol.package import ModelPackage
from fleet_server.tuf_metadata import MODELS_DAYS, parse_targets, sign

MAX_KEY_BYTES: Final = 16_384


class UnreadableKey(MalformedInput):
    """A file that should hold a private signing key and does not."""

    code = "unreadable-key"


def add_release(
    models_metadata: bytes, package: ModelPackage, signers: Sequence[Signer], *, floor: int, now: datetime
) -> bytes:
    """New signed ``models.json`` that also names every variant of ``package``, one version up and valid for 90 days.

    ``floor``: lowest release counter that devices may still go back to in this slot once they saw this release. Raises
    BelowSecurityFloor where the release is itself below it, Conflict where the version is released with other contents.
    """
    current = parse_targets(models_metadata).signed
    targets = dict(current.targets)
    for variant in package.variants:
        path = variant.manifest.target_path
        if variant.manifest.counter < floor:
            raise BelowSecurityFloor(f"{path} has release counter {variant.manifest.counter}, below the floor {floor}")
        target = TargetFile.from_data(path, variant.manifest_bytes, ["sha256"])
        if path in targets and targets[path].hashes != target.hashes:
            raise Conflict(f"{path} is already released with other contents; give the model a new version")
        target.unrecognized_fields["custom"] = {"floor": floor}
        targets[path] = target
    expires = now.replace(microsecond=0) + timedelta(days=MODELS_DAYS)
    return sign(Targets(current.version + 1, expires=expires, targets=targets), signers)


def load_signer(path: Path) -> Signer:
    """The signer in a PEM file (PKCS#8, Ed25519 or P-256); raises NotFound or UnreadableKey, never repeating the file."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_KEY_BYTES)
        return CryptoSigner(load_pem_private_key(content, None))
    except FileNotFoundError as error:
        raise NotFound(f"no signing key at {path}") from error
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnreadableKey(f"{path} holds no unencrypted private key in PEM form") from error
