"""The attack table: who attacks, how, and the code with which it is refused. Tests name their row with ``@pytest.mark.attack``.

Sources: the threats of the Uptane standard, OWASP ISVS 1.0, NIST SP 800-193, RFC 9124.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Row:
    """``answer``: the codes that refuse it, or what happens instead."""

    attacker: str
    attack: str
    answer: str


ROWS: Final[Mapping[str, Row]] = {
    "1": Row("network", "replay the same or an older assignment", "replayed-assignment"),
    "2": Row("network", "bit flip in payload or metadata", "bad-signature, untrusted-metadata"),
    "3": Row("network", "assignment after its time", "stale-assignment"),
    "4": Row("network", "drop, slow retrieval", "download-stalled, old model serves, report"),
    "5": Row("broker", "another device's or fleet's assignment", "not-for-this-device"),
    "6": Row("broker", "unsigned, attacker's key, attacker's key under the real id", "bad-signature"),
    "7": Row("broker", "signed statement of another kind", "wrong-payload-type"),
    "8": Row("broker", "freeze: expired roles", "expired-metadata"),
    "9": Row("broker", "roll all metadata back, cache wiped", "rolled-back-metadata"),
    "10": Row("broker", "withhold a root that was seen", "rolled-back-metadata"),
    "11": Row("broker", "mix-and-match, partial bundle", "untrusted-metadata"),
    "12": Row("broker", "endless, bomb, nested, NaN, duplicate keys", "input-too-large, malformed-*"),
    "13": Row("broker", "cut, reorder, swap, flip chunks", "chunk-tampered, never written"),
    "14": Row("broker", "read the model", "ciphertext only, on the wire and on disk"),
    "15": Row("broker, device A", "read or write B's topics", "not authorised"),
    "16": Row("online key", "assign what was never released or withdrawn", "not-released"),
    "17": Row("online key", "released name, other content", "release-mismatch, payload-mismatch"),
    "18": Row("online key", "wrong board, runtime, slot, below floor", "wrong-*, below-security-floor"),
    "19": Row("online key", "time pushed ten years", "stale-assignment, still updatable"),
    "20": Row("online key", "old director key; one of two", "bad-signature"),
    "21": Row("online keys", "all of them together inject a model", "untrusted-metadata"),
    "22": Row("release key", "one of two signs a release", "untrusted-metadata"),
    "23": Row("offline key", "one of three replaces the director", "untrusted-metadata"),
    "24": Row("past key theft", "fast-forward, then rotation", "recovers"),
    "25": Row("stolen device", "its key on another's content key; key moved to another blob", "key-not-for-this-device"),
    "26": Row("stolen device", "revoked: claim, live session, reports, next key", "device-revoked, kicked, no key wrapped"),
    "26b": Row("online keys", "old list of releases, cache wiped", "rolled-back-metadata"),
    "26c": Row("device CA key", "minted certificate, known and unknown device", "not listened to; no key opens"),
    "27": Row("stolen device", "a copy of it runs beside it", "device.cloned in audit and in `device why`"),
    "28": Row("enrolment", "used, expired, guessed claims; other keys; impostor", "claim-*, certificate-refused, wrong-pin"),
    "29": Row("artifact", "path traversal in target or slot", "not-released, malformed-identifier"),
    "30": Row("artifact", "pickle, external data, custom operator, oversize", "model-not-loadable, payload-mismatch"),
    "31": Row("artifact", "crashes, hangs, NaN, fails in the canary", "bake-failed or golden-frames-differ; old serves"),
    "32": Row("local", "file swapped between check and load", "model-not-loadable, fallback"),
    "33": Row("power cut", "after any write", "old or new, never half; no replay"),
    "34": Row("operator side", "cross-site POST, stolen session or claim database", "refused; digests only"),
}  # fmt: skip
"""Row 34's last part, a cut or rewritten audit, has no answer yet: the audit is append-only by code, not by signature."""
