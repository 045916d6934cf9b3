"""The error tree of edgefleet. Every refusal has a stable code and one sentence that a person can act on.

    FleetError
    ├── MalformedInput        bytes or text from outside that do not have the promised shape
    ├── TrustError            well-formed, but not to be believed (SPEC 6)
    ├── DeliveryError         we could not hear, or could not keep what we heard (SPEC 7)
    ├── ProofError            the model did not prove itself on this device (SPEC 8)
    └── RefusedRequest        a request that this fleet's rules forbid (SPEC 9)

Programming mistakes (``TypeError``, ``RuntimeError``) are outside the tree and are never caught. The codes are on the
wire (``DeploymentReport.code``, problem+json): renaming one is a decision, not an edit (``tests/protocol/test_errors.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class FleetError(Exception):
    """Root of everything that edgefleet raises on purpose. ``code`` is stable, ``str(error)`` is one sentence."""

    code: ClassVar[str] = "fleet-error"


# --- malformed ------------------------------------------------------------------------------------------------------
class MalformedInput(FleetError):
    """Input from outside that does not have the promised shape; nothing was written."""

    code = "malformed-input"


class MalformedIdentifier(MalformedInput):
    code = "malformed-identifier"


class MalformedJson(MalformedInput):
    code = "malformed-json"


class MalformedManifest(MalformedInput):
    code = "malformed-manifest"


class MalformedPackage(MalformedInput):
    code = "malformed-package"


class MalformedAssignment(MalformedInput):
    code = "malformed-assignment"


class MalformedEnvelope(MalformedInput):
    code = "malformed-envelope"


class MalformedMessage(MalformedInput):
    code = "malformed-message"


class MalformedBoard(MalformedInput):
    code = "malformed-board"


class MalformedClaim(MalformedInput):
    code = "malformed-claim"


class MalformedConfig(MalformedInput):
    code = "malformed-config"


class InputTooLarge(MalformedInput):
    code = "input-too-large"


# --- trust (SPEC 6) -------------------------------------------------------------------------------------------------
class TrustError(FleetError):
    """A statement that this device or server must not believe."""

    code = "untrusted"


class UntrustedMetadata(TrustError):
    code = "untrusted-metadata"


class ExpiredMetadata(TrustError):
    code = "expired-metadata"


class RolledBackMetadata(TrustError):
    code = "rolled-back-metadata"


class BadSignature(TrustError):
    code = "bad-signature"


class WrongPayloadType(TrustError):
    code = "wrong-payload-type"


class NotForThisDevice(TrustError):
    code = "not-for-this-device"


class ReplayedAssignment(TrustError):
    code = "replayed-assignment"


class StaleAssignment(TrustError):
    code = "stale-assignment"


class NotReleased(TrustError):
    code = "not-released"


class ReleaseMismatch(TrustError):
    code = "release-mismatch"


class WrongSlot(TrustError):
    code = "wrong-slot"


class WrongBoard(TrustError):
    code = "wrong-board"


class WrongRuntime(TrustError):
    code = "wrong-runtime"


class BelowSecurityFloor(TrustError):
    code = "below-security-floor"


class KeyNotForThisDevice(TrustError):
    code = "key-not-for-this-device"


class ChunkTampered(TrustError):
    code = "chunk-tampered"


class PayloadMismatch(TrustError):
    code = "payload-mismatch"


class WrongPin(TrustError):
    code = "wrong-pin"


# --- delivery (SPEC 7) ----------------------------------------------------------------------------------------------
class DeliveryError(FleetError):
    """Bytes did not arrive, or could not be kept; what arrived is kept and the download resumes."""

    code = "delivery-failed"


class BrokerUnreachable(DeliveryError):
    code = "broker-unreachable"


class ServerUnreachable(DeliveryError):
    code = "server-unreachable"


class DownloadStalled(DeliveryError):
    code = "download-stalled"


class DiskFull(DeliveryError):
    code = "disk-full"


# --- proof (SPEC 8) -------------------------------------------------------------------------------------------------
class ProofError(FleetError):
    """The model did not prove itself on the runtime that would have to serve it."""

    code = "proof-failed"


class ModelNotLoadable(ProofError):
    code = "model-not-loadable"


class GoldenFramesDiffer(ProofError):
    code = "golden-frames-differ"


class LatencyOverBudget(ProofError):
    code = "latency-over-budget"


class WorkerDied(ProofError):
    code = "worker-died"


class BakeFailed(ProofError):
    code = "bake-failed"


class StateTimedOut(ProofError):
    code = "state-timed-out"


class LoopDetected(ProofError):
    code = "loop-detected"


class AccuracyRefused(ProofError):
    code = "accuracy-refused"


# --- refused requests (SPEC 9) --------------------------------------------------------------------------------------
class RefusedRequest(FleetError):
    """A request that the rules of this fleet forbid; nothing was changed."""

    code = "refused"


class NotAuthenticated(RefusedRequest):
    code = "not-authenticated"


class NotAllowed(RefusedRequest):
    code = "not-allowed"


class NotFound(RefusedRequest):
    code = "not-found"


class Conflict(RefusedRequest):
    code = "conflict"


class ClaimRefused(RefusedRequest):
    code = "claim-refused"


class ClaimUsed(RefusedRequest):
    code = "claim-used"


class DeviceExists(RefusedRequest):
    code = "device-exists"


class DeviceRevoked(RefusedRequest):
    code = "device-revoked"


class CertificateRefused(RefusedRequest):
    code = "certificate-refused"


class CertificateExpired(CertificateRefused):
    code = "certificate-expired"


class CertificateSuperseded(CertificateRefused):
    code = "certificate-superseded"


class CsrRefused(RefusedRequest):
    code = "csr-refused"


class NoMatchingVariant(RefusedRequest):
    code = "no-matching-variant"


def all_errors(root: type[FleetError] = FleetError) -> Iterator[type[FleetError]]:
    """Yield ``root`` and every error below it, parents first."""
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)
