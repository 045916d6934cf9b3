"""The codes are on the wire; a rename is a decision."""

from fleet_protocol.errors import FleetError, all_errors

CODES = [
    "fleet-error",
    "malformed-input",
    "malformed-identifier",
    "malformed-json",
    "malformed-manifest",
    "malformed-package",
    "malformed-assignment",
    "malformed-envelope",
    "malformed-message",
    "malformed-board",
    "malformed-claim",
    "malformed-config",
    "input-too-large",
    "untrusted",
    "untrusted-metadata",
    "expired-metadata",
    "rolled-back-metadata",
    "bad-signature",
    "wrong-payload-type",
    "not-for-this-device",
    "replayed-assignment",
    "stale-assignment",
    "not-released",
    "release-mismatch",
    "wrong-slot",
    "wrong-board",
    "wrong-runtime",
    "below-security-floor",
    "key-not-for-this-device",
    "chunk-tampered",
    "payload-mismatch",
    "wrong-pin",
    "delivery-failed",
    "broker-unreachable",
    "server-unreachable",
    "download-stalled",
    "disk-full",
    "proof-failed",
    "model-not-loadable",
    "golden-frames-differ",
    "latency-over-budget",
    "worker-died",
    "bake-failed",
    "state-timed-out",
    "loop-detected",
    "accuracy-refused",
    "refused",
    "not-authenticated",
    "not-allowed",
    "not-found",
    "conflict",
    "claim-refused",
    "claim-used",
    "device-exists",
    "device-revoked",
    "certificate-refused",
    "certificate-expired",
    "certificate-superseded",
    "csr-refused",
    "no-matching-variant",
]


def contract_errors() -> list[type[FleetError]]:
    return [error for error in all_errors() if error.__module__ == FleetError.__module__]


def test_the_codes_are_exactly_these() -> None:
    assert sorted(error.code for error in contract_errors()) == sorted(CODES)


def test_no_code_is_used_twice() -> None:
    codes = [error.code for error in contract_errors()]
    assert len(codes) == len(set(codes))
