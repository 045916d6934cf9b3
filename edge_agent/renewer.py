"""Keeps the device's certificate alive: asks in time, tries the new pair on the broker, and never lets the old one go before.

A thread of its own: nothing here may hold up the models. What it does next depends on what is on disk only, so a power cut
at any point is followed by the same step again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.adapters.credentials import Credential, Credentials, Refusal
from edge_agent.ports import Clock
from edge_agent.renewal import is_due, quiet_s, retry_s
from fleet_protocol.errors import FleetError, RefusedRequest
from fleet_protocol.identifiers import DeviceId

_LOG: Final = logging.getLogger(__name__)
LOOK_S: Final = 30.0
"""Between two looks at the certificate; each reads one small file."""
TRIAL_S: Final = 30.0
"""How long the broker may take to accept the device with a pair before the other one is tried."""


class Issuer(Protocol):
    """The server, as it is asked for certificates."""

    def issue(self, present: Credential, new: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """A certificate for ``new``, asked for with the present pair. Raises FleetError."""
        ...


class Link(Protocol):
    """The connection to the broker, as far as it has a certificate."""

    def use(self, certificate: Path, key: Path) -> None:
        """Connect anew with this pair. Raises MalformedConfig where it cannot be used; then the old one goes on."""
        ...

    def wait_connected(self, limit_s: float) -> bool:
        """Whether the broker accepts the device within ``limit_s``."""
        ...


class Renewer:
    """One per agent. ``now_s``: trusted time."""

    def __init__(
        self,
        device: DeviceId,
        credentials: Credentials,
        issuer: Issuer,
        link: Link,
        *,
        now_s: Clock,
        monotonic: Callable[[], float],
        trial_s: float = TRIAL_S,
    ) -> None:
        self._device, self._credentials, self._issuer, self._link = device, credentials, issuer, link
        self._now_s, self._monotonic, self._trial_s = now_s, monotonic, trial_s
        self._used: x509.Certificate | None = None
        self._failures = 0
        self._not_before_s = monotonic()

    def run(self, stopping: threading.Event, look_s: float = LOOK_S) -> None:
        """Look, until ``stopping``. A full or failing disk is waited out: the present pair is not touched then."""
        while not stopping.is_set():
            try:
                self.step()
            except (OSError, FleetError) as error:
                self._failed(f"the certificate cannot be renewed now: {error}")
            stopping.wait(look_s)

    def step(self) -> None:
        """One look: try a pair that waits, or ask for one where it is time. Raises FleetError or OSError."""
        self._follow()
        if self._monotonic() < self._not_before_s:
            return
        if self._credentials.following() is None:
            self._ask()
        following = self._credentials.following()
        if following is not None:
            self._try(following)

    def _follow(self) -> None:
        """Use what a new enrolment brought while the agent runs."""
        present = self._credentials.present()
        certificate = present.read_certificate()
        if self._used is not None and certificate != self._used:
            self._link.use(present.certificate, present.key)
            self._failures, self._not_before_s = 0, self._monotonic()
        self._used = certificate

    def _ask(self) -> None:
        present = self._credentials.present()
        if not is_due(present.life(), self._device, self._now_s()):
            return
        key = self._credentials.next_key()
        try:
            certificate = self._issuer.issue(present, key)
        except RefusedRequest as error:
            self._credentials.refuse(Refusal(error.code, str(error), self._now_s()))
            raise
        self._credentials.keep(key, certificate)

    def _try(self, following: Credential) -> None:
        """Promote the new pair once the broker has accepted it; forget it once the broker accepted only the old one."""
        present = self._credentials.present()
        if self._accepts(following):
            life = following.life()
            self._credentials.promote()
            self._used = self._credentials.present().read_certificate()
            self._failures, self._not_before_s = 0, self._monotonic() + quiet_s(life)
            _LOG.info("certificate.renewed until=%.0f", life.end_s)
        elif self._accepts(present):
            self._credentials.discard()
            self._failed("the broker does not accept the new certificate; the old one goes on")
        else:
            self._failed("the broker is not there; the new certificate waits")

    def _accepts(self, credential: Credential) -> bool:
        try:
            self._link.use(credential.certificate, credential.key)
        except FleetError as error:
            _LOG.warning("certificate.unusable %s", error)
            return False
        return self._link.wait_connected(self._trial_s)

    def _failed(self, reason: str) -> None:
        self._failures += 1
        self._not_before_s = self._monotonic() + retry_s(self._failures)
        _LOG.warning("certificate.not_renewed failures=%d %s", self._failures, reason)
