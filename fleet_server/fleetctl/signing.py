"""What the release engineer's machine checks before it lends its keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata
from tuf.api.serialization import DeserializationError

from fleet_protocol.errors import BadSignature, MalformedInput, NotFound

RELEASE_KEYS: Final = ("models-ci.pem", "models-person.pem")
"""Names that ``fleet-server init`` gives the release keys."""


def key_files(folder: Path | None, files: Sequence[Path]) -> list[Path]:
    """The release keys in ``folder``, or ``files``; raises MalformedInput or NotFound."""
    if (folder is None) == (not files):
        raise MalformedInput("give the release keys by --keys DIR, or each by --key FILE")
    if folder is None:
        return list(files)
    found = [folder / name for name in RELEASE_KEYS if (folder / name).is_file()]
    if not found:
        raise NotFound(f"{folder} holds none of {', '.join(RELEASE_KEYS)}")
    return found


def check_own(models_metadata: bytes, signers: Sequence[Signer]) -> None:
    """Raises BadSignature unless each of ``signers`` has signed ``models_metadata`` before.

    The list that the server hands out is the list that is signed again with one release more: a server that somebody else
    holds could have added a release of its own to it.
    """
    try:
        metadata = Metadata.from_bytes(models_metadata)
    except DeserializationError as error:
        raise BadSignature("the server did not hand out signed metadata") from error
    for signer in signers:
        signature = metadata.signatures.get(signer.public_key.keyid)
        try:
            if signature is None:
                raise BadSignature("the server's list of releases does not bear the signature of every key given")
            signer.public_key.verify_signature(signature, metadata.signed_bytes)
        except SecureSystemsError as error:
            raise BadSignature("the server's list of releases was changed after it was signed") from error
