"""The server's own two certificates: HTTPS and broker share one, the broker client has the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from fleet_server.adapters.ca import FleetAuthority, new_key, private_pem, server_names
from fleet_server.adapters.files import PRIVATE, PUBLIC, write_file
from fleet_server.config import StateLayout

RENEW_BEFORE_S: Final = 60 * 86_400.0


def write_tls(layout: StateLayout, ca: FleetAuthority, hosts: Sequence[str], now_s: float) -> None:
    """A new key and certificate for HTTPS and the broker."""
    key = new_key()
    certificate = ca.issue_server(key.public_key(), hosts, now_s)
    _write(layout.tls_key, private_pem(key), layout.tls_certificate, certificate)


def write_mqtt(layout: StateLayout, ca: FleetAuthority, now_s: float) -> None:
    """A new key and certificate for the server's connection to its broker."""
    key = new_key()
    _write(layout.mqtt_key, private_pem(key), layout.mqtt_certificate, ca.issue_mqtt_client(key.public_key(), now_s))


def renew_if_due(layout: StateLayout, ca: FleetAuthority, hosts: Sequence[str], now_s: float) -> list[str]:
    """Issue again what runs out within two months, is missing, or names other hosts; which they were.

    Asked at each start: devices trust the CA, not a certificate, so a new one costs nobody anything.
    """
    renewed = []
    if _is_due(layout.tls_certificate, layout.tls_key, now_s) or _names(layout.tls_certificate) != server_names(hosts):
        write_tls(layout, ca, hosts, now_s)
        renewed.append("TLS")
    if _is_due(layout.mqtt_certificate, layout.mqtt_key, now_s):
        write_mqtt(layout, ca, now_s)
        renewed.append("broker client")
    return renewed


def _write(key_path: Path, key: bytes, certificate_path: Path, certificate: x509.Certificate) -> None:
    # A cut between the two leaves a pair that does not fit; _is_due sees that at the next start.
    write_file(key_path, key, PRIVATE)
    write_file(certificate_path, certificate.public_bytes(Encoding.PEM), PUBLIC)


def _read(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None


def _is_due(certificate_path: Path, key_path: Path, now_s: float) -> bool:
    certificate = _read(certificate_path)
    if certificate is None or certificate.not_valid_after_utc.timestamp() - now_s < RENEW_BEFORE_S:
        return True
    try:
        key = load_pem_private_key(key_path.read_bytes(), None)
    except (OSError, ValueError):
        return True
    return key.public_key() != certificate.public_key()


def _names(path: Path) -> list[x509.GeneralName]:
    certificate = _read(path)
    if certificate is None:
        return []
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
