"""Errors that only a device can make; they extend the contract's tree and travel in ``DeploymentReport.code``."""

from __future__ import annotations

from fleet_protocol.errors import DeliveryError, FleetError, MalformedInput, NotFound, TrustError


class Superseded(FleetError):
    """A newer assignment wants something else in the slot; the deployment ended before it was done."""

    code = "superseded"


class IncompleteAssignment(TrustError):
    """Another item of the same assignment was refused, so none of its changes is made (SPEC 6.5, partial bundle)."""

    code = "incomplete-assignment"


class NotEnrolled(NotFound):
    """This device has no identity yet."""

    code = "not-enrolled"


class DamagedJournal(MalformedInput):
    """The journal on disk could not be read; it was put aside and nothing that a second copy holds is lost."""

    code = "damaged-journal"


class SourceUnavailable(FleetError):
    """A slot's folder or video cannot be read; the agent goes on and tries again."""

    code = "source-unavailable"


class JournalUnwritable(DeliveryError):
    """The journal could not be written (a full or failing disk): the device goes on as it is and tries again."""

    code = "journal-unwritable"
