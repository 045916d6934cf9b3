"""Rights and sessions at the supervised broker."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from fleet_protocol.identifiers import DeviceId
from fleet_server.adapters.broker import Mosquitto
from fleet_server.adapters.ca import FleetAuthority, new_key, private_pem
from fleet_server.adapters.files import PRIVATE, write_file
from fleet_server.adapters.mqtt import Identity, take_over
from fleet_server.config import StateLayout
from fleet_server.ports import Clock

TAKE_OVER_LIMIT_S: Final = 5.0


class SupervisedAccess:
    """See ``ports.BrokerAccess``."""

    def __init__(self, broker: Mosquitto, ca: FleetAuthority, layout: StateLayout, clock: Clock) -> None:
        self._broker = broker
        self._ca = ca
        self._layout = layout
        self._clock = clock

    def write_access(self, denied: Collection[DeviceId]) -> None:
        self._broker.write_access(denied)

    def end_session(self, device: DeviceId) -> None:
        # One connection per certificate name: ours, in the device's name, makes the broker end the device's. It needs no
        # second listener and no password; the certificate is valid for minutes and its name has no rights any more.
        key = new_key()
        certificate = self._ca.issue_takeover(key.public_key(), device, self._clock())
        with tempfile.TemporaryDirectory(dir=self._layout.broker, prefix=".end-") as directory:
            identity = Identity(self._layout.ca_certificate, Path(directory) / "cert.pem", Path(directory) / "key.pem")
            write_file(identity.certificate, certificate.public_bytes(Encoding.PEM), PRIVATE)
            write_file(identity.key, private_pem(key), PRIVATE)
            take_over(self._broker.address, identity, device, TAKE_OVER_LIMIT_S)
