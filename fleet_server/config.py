"""The server's configuration: read once from ``config.toml`` in the state directory, frozen, and strict."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from fleet_protocol.errors import MalformedConfig, MalformedIdentifier, NotFound
from fleet_protocol.identifiers import fleet_id

DEFAULT_LISTEN: Final = "127.0.0.1:8443"
DEFAULT_BROKER_PORT: Final = 8883
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:]{2,39}")


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Where everything of one server lies. Secrets are files of mode 0600 under ``keys``."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def database(self) -> Path:
        return self.root / "fleet.db"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def tuf(self) -> Path:
        return self.root / "tuf"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def broker(self) -> Path:
        return self.root / "broker"

    @property
    def run(self) -> Path:
        return self.root / "run.json"

    @property
    def ports(self) -> Path:
        return self.root / "ports.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def ca_certificate(self) -> Path:
        return self.root / "ca.pem"

    @property
    def tls_certificate(self) -> Path:
        return self.keys / "tls.pem"

    @property
    def tls_key(self) -> Path:
        return self.keys / "tls.key"

    @property
    def mqtt_certificate(self) -> Path:
        return self.keys / "mqtt.pem"

    @property
    def mqtt_key(self) -> Path:
        return self.keys / "mqtt.key"

    @property
    def ca_key(self) -> Path:
        return self.keys / "ca.key"

    @property
    def key_encryption_key(self) -> Path:
        return self.keys / "kek"

    @property
    def director_key(self) -> Path:
        return self.keys / "director.pem"

    @property
    def snapshot_key(self) -> Path:
        return self.keys / "snapshot.pem"

    @property
    def timestamp_key(self) -> Path:
        return self.keys / "timestamp.pem"


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``hosts``: names and addresses of this server, the first is what devices are told. ``listen``: HTTPS, host:port.

    ``database``: an SQLAlchemy URL, empty for SQLite in the state directory. ``broker_port`` 0: any free one.
    ``broker_listen``: address that the broker binds.
    """

    fleet: str
    hosts: tuple[str, ...]
    listen: str = DEFAULT_LISTEN
    broker_listen: str = "127.0.0.1"
    broker_port: int = DEFAULT_BROKER_PORT
    database: str = ""

    @property
    def public_host(self) -> str:
        """Where devices find the server and its broker."""
        return self.hosts[0]

    @property
    def listen_address(self) -> tuple[str, int]:
        """Host and port of the HTTPS listener."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    def database_url(self, layout: StateLayout) -> str:
        """The registry's SQLAlchemy URL."""
        return self.database or f"sqlite:///{layout.database}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``config.toml``; raises MalformedConfig naming the key that is wrong, missing or unknown."""
        try:
            config = msgspec.convert(tomllib.loads(text), cls, strict=True)
            fleet_id(config.fleet)
        except tomllib.TOMLDecodeError as error:
            raise MalformedConfig(f"config.toml is not valid TOML: {error}") from error
        except (msgspec.ValidationError, MalformedIdentifier) as error:
            raise MalformedConfig(f"config.toml: {error}") from error
        _check(config)
        return config

    def encode(self) -> str:
        """The text of ``config.toml``."""
        # JSON strings, numbers and arrays of strings are also TOML.
        lines = [
            f"{key} = {msgspec.json.encode(value).decode()}" for key, value in msgspec.structs.asdict(self).items()
        ]
        return "\n".join(lines) + "\n"


def read_config(layout: StateLayout) -> ServerConfig:
    """Read the configuration of an initialised state directory; raises NotFound where there is none."""
    try:
        return ServerConfig.parse(layout.config.read_text("utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"{layout.root} holds no fleet server; make one with `fleet-server init`") from error


def _check(config: ServerConfig) -> None:
    _, _, port = config.listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535 or not 0 <= config.broker_port <= 65_535:
        raise MalformedConfig("listen reads host:port and ports are 0 to 65535")
    strange = [host for host in config.hosts if not _HOST.fullmatch(host)]
    if strange:
        raise MalformedConfig(f"a host is a name or an address without port, got {strange[0][:80]!r}")
    if not config.hosts:
        raise MalformedConfig("hosts names at least one address of this server")
