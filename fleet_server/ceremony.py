"""The founding of a fleet: every key is made once, and the offline ones leave at once (``fleet-server init``).

Everything is made in a directory beside the final one and renamed as the last step: an interrupted ceremony leaves no
half-founded server, only a directory to delete.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from securesystemslib.signer import CryptoSigner

from fleet_protocol.assignment import encode_director_keys
from fleet_protocol.envelope import KEY_BYTES
from fleet_protocol.errors import Conflict
from fleet_server import tuf_metadata
from fleet_server.adapters.ca import found_authority
from fleet_server.adapters.files import PRIVATE, PUBLIC, sync_directory, write_file
from fleet_server.adapters.server_certificates import write_mqtt, write_tls
from fleet_server.config import ServerConfig, StateLayout
from fleet_server.db import migrate
from fleet_server.db.models import Audit
from fleet_server.db.session import open_registry
from fleet_server.services.tokens import Tokens
from fleet_server.tuf_metadata import OfflineKeys, OnlineKeys

OFFLINE_FILES: Final = (
    "root-1", "root-2", "root-3", "targets-1", "targets-2", "targets-3", "models-ci", "models-person",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Founding:
    """What a ceremony hands to the person who held it. ``admin_token`` exists nowhere else."""

    state: Path
    offline: Path
    offline_files: tuple[Path, ...]
    admin_token: str = field(repr=False)


def found_fleet(state: Path, offline: Path, config: ServerConfig, now_s: float) -> Founding:
    """Make a new server's state and its offline keys. Raises Conflict where either place is in use already.

    ``offline``: the directory for the keys that sign releases; it may not lie inside ``state``, and the server never reads it.
    """
    state, offline = state.absolute(), offline.absolute()
    _check_places(state, offline)
    signers = {name: CryptoSigner.generate_ed25519() for name in OFFLINE_FILES}
    staged = state.with_name(f".{state.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir(mode=0o700, parents=True)
        token = _found_state(StateLayout(staged), config, _offline_keys(signers), now_s)
        files = _write_offline(offline, signers)
        if state.exists():
            state.rmdir()  # empty: _check_places looked
        staged.rename(state)
        sync_directory(state.parent)
    except OSError as error:
        raise Conflict(f"the ceremony could not write: {error.strerror} ({error.filename})") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Founding(state, offline, files, token)


def _check_places(state: Path, offline: Path) -> None:
    if state.exists() and (not state.is_dir() or any(state.iterdir())):
        raise Conflict(f"{state} is not empty; a fleet is founded once, in a directory of its own")
    if offline.exists() and (not offline.is_dir() or any(offline.iterdir())):
        raise Conflict(f"{offline} is not empty; offline keys go to a directory of their own")
    if offline.resolve().is_relative_to(state.resolve()) or state.resolve().is_relative_to(offline.resolve()):
        raise Conflict("offline keys may not lie inside the server's state, nor the state beside them")


def _found_state(layout: StateLayout, config: ServerConfig, offline: OfflineKeys, now_s: float) -> str:
    for directory in (layout.keys, layout.tuf, layout.blobs, layout.broker):
        directory.mkdir(mode=0o700)
    (layout.tuf / "keys").mkdir(mode=0o700)
    ca = found_authority(config.fleet, now_s)
    write_file(layout.ca_key, ca.private_pem(), PRIVATE)
    write_file(layout.ca_certificate, ca.certificate_pem, PUBLIC)
    write_tls(layout, ca, config.hosts, now_s)
    write_mqtt(layout, ca, now_s)
    write_file(layout.key_encryption_key, os.urandom(KEY_BYTES), PRIVATE)
    director = _online_signer(layout.director_key)
    online = OnlineKeys(_online_signer(layout.snapshot_key), _online_signer(layout.timestamp_key))
    named = encode_director_keys([director.public_key], threshold=1)
    for name, content in tuf_metadata.found(offline, online, named, now_s).items():
        write_file(layout.tuf / name, content)
    write_file(layout.config, config.encode().encode(), PRIVATE)
    return _found_registry(layout, config, now_s)


def _online_signer(path: Path) -> CryptoSigner:
    signer = CryptoSigner.generate_ed25519()
    write_file(path, signer.private_bytes, PRIVATE)
    return signer


def _offline_keys(signers: dict[str, CryptoSigner]) -> OfflineKeys:
    def of(role: str) -> tuple[CryptoSigner, ...]:
        return tuple(signer for name, signer in signers.items() if name.startswith(role))

    return OfflineKeys(of("root"), of("targets"), of("models"))


def _write_offline(offline: Path, signers: dict[str, CryptoSigner]) -> tuple[Path, ...]:
    offline.mkdir(mode=0o700, parents=True, exist_ok=True)
    offline.chmod(0o700)
    files = tuple(offline / f"{name}.pem" for name in OFFLINE_FILES)
    for path in files:
        write_file(path, signers[path.stem].private_bytes, PRIVATE)
    return files


def _found_registry(layout: StateLayout, config: ServerConfig, now_s: float) -> str:
    registry = open_registry(config.database_url(layout))
    try:
        migrate.upgrade(registry.engine)
        with registry.sessions.begin() as session:
            session.add(Audit(at=now_s, who="init", action="fleet.init", subject=config.fleet, reason=""))
        tokens = Tokens(registry.sessions, registry.readers, lambda: now_s, secrets.token_bytes)
        return tokens.create("admin", "admin", None, "init").text
    finally:
        registry.close()
