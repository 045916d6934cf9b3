"""Every check that a device makes, and the change that takes it away: (file, exact text, replacement, tests that must fail).

Not listed, because another check gives the same answer to every input: the manifest's length beside its SHA-256 (SPEC 6.5.3),
the blob's size before ``verify_blob``, the shape checks that ``BlobStore`` makes of the program's own calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old`` stands exactly once in ``file``; with ``new`` in its place one of ``tests`` (pytest arguments) must fail."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_TRUST: Final = ("tests/protocol/test_trust.py", "tests/protocol/test_trust_limits.py")
_SHAPE: Final = (*_TRUST, "tests/protocol/test_strict_json.py", "tests/protocol/test_metadata_bundle.py")
_SEALED: Final = ("tests/protocol/test_envelope.py", "tests/protocol/test_trust_limits.py")
_MANIFEST: Final = ("tests/protocol/test_manifest.py",)
_MEMORY: Final = ("tests/agent/test_memory_limits.py", "tests/agent/test_trust_memory.py")
_ATTACKS: Final = ("tests/agent/test_trust_attacks.py",)
_DISK: Final = ("tests/agent/test_delivery_resume.py",)
_OPENING: Final = ("tests/agent/test_worker_opening.py", "tests/agent/test_memory_limits.py")
_SLOW: Final = ("tests/agent/test_attacks_slow.py",)
_POWER: Final = ("tests/reliability/test_power_cuts.py",)


def _some(tests: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    return (*tests, "-k", pattern)


_P, _A = "fleet_protocol", "edge_agent"
MUTANTS: Final = (
    # --- what is believed (SPEC 6) ---
    Mutant(f"{_P}/trust.py", "return max(clock_s, build_s, memory.time_s)", "return max(clock_s, build_s)", _TRUST),
    Mutant(f"{_P}/trust.py", "return max(clock_s, build_s, memory.time_s)", "return max(clock_s, memory.time_s)", _TRUST),
    Mutant(f"{_P}/trust.py", "if version < memory.versions.get(name, 0)]", "if False]", _TRUST),
    Mutant(f"{_P}/trust.py", "if seen.root_version < memory.root_version:", "if False:", _TRUST),
    Mutant(f"{_P}/trust.py", "if assignment.fleet != fleet or assignment", "if assignment", _TRUST),
    Mutant(f"{_P}/trust.py", " or assignment.device != device:", ":", _TRUST),
    Mutant(f"{_P}/trust.py", "if assignment.seq <= memory.seq:", "if False:", _TRUST),
    Mutant(f"{_P}/trust.py", "if assignment.seq <= memory.seq:", "if assignment.seq < memory.seq:", _TRUST),
    Mutant(f"{_P}/trust.py", "not clock_believed and assignment.iat <= horizon_s", "not clock_believed", _TRUST),
    Mutant(f"{_P}/trust.py", "not clock_believed and assignment.iat", "assignment.iat", _TRUST),
    Mutant(f"{_P}/trust.py", " <= now_s <= assignment.exp:", " <= now_s:", _TRUST),
    Mutant(f"{_P}/trust.py", "if not assignment.iat - CLOCK_SLACK_S <= now_s", "if not now_s", _TRUST),
    Mutant(f"{_P}/trust.py", "if target is None:", "if False:", _TRUST),
    Mutant(f"{_P}/trust.py", "if item.target_sha256 != target.sha256:", "if False:", _TRUST),
    Mutant(f"{_P}/trust.py", "if len(content) != target.length or digest_of(content) != target.sha256:", "if False:", _TRUST),
    Mutant(f"{_P}/trust.py", "if parsed.target_path != item.target:", "if False:", _TRUST),
    Mutant(f"{_P}/trust.py", "if parsed.slot != item.slot:", "if False:", _TRUST),
    Mutant(f"{_P}/trust.py", "if unfit is not None:", "if False:", _TRUST),
    Mutant(f"{_P}/trust.py", "max(target.floor, memory.floors.get(SlotName(parsed.slot), 0))", "target.floor", _TRUST),
    Mutant(f"{_P}/trust.py", "max(target.floor, memory.floors", "max(0, memory.floors", _TRUST),
    Mutant(f"{_P}/trust.py", "if parsed.counter < floor:", "if False:", _TRUST),
    Mutant(f"{_P}/trust.py", "if item.blob_bytes != envelope.sealed_length(parsed.payload.length):", "if False:", _TRUST),
    Mutant(f"{_P}/trust.py", "if seal is not _SEAL:", "if False:", _TRUST),
    Mutant(f"{_P}/fingerprint.py", "if fingerprint.board not in manifest.boards:", "if False:", _TRUST),
    Mutant(f"{_P}/fingerprint.py", "if fingerprint.runtime != wanted.name:", "if False:", _TRUST),
    Mutant(f"{_P}/fingerprint.py", "if version_key(fingerprint.runtime_version) < version_key(wanted.min_version):",
           "if False:", _TRUST),
    Mutant(f"{_P}/fingerprint.py", "if fingerprint.architecture not in wanted.architectures:", "if False:", _TRUST),
    # --- the assignment ---
    Mutant(f"{_P}/assignment.py", "envelope.verify(list(director.keys), director.threshold)", "pass", _TRUST),
    Mutant(f"{_P}/assignment.py", "envelope.verify(list(director.keys), director.threshold)",
           "envelope.verify(list(director.keys), 1)", _TRUST),
    Mutant(f"{_P}/assignment.py", "if envelope.payload_type != PAYLOAD_TYPE:", "if False:", _TRUST),
    Mutant(f"{_P}/assignment.py", "if not 1 <= threshold <= len(keys):", "if False:", _TRUST),
    Mutant(f"{_P}/assignment.py", "        fleet_id(assignment.fleet)\n", "", _TRUST),
    Mutant(f"{_P}/assignment.py", "        device_id(assignment.device)\n", "", _TRUST),
    Mutant(f"{_P}/assignment.py", "            _check_item(item)", "            pass", _TRUST),
    Mutant(f"{_P}/assignment.py", "if assignment.schema != SCHEMA:", "if False:", _TRUST),
    Mutant(f"{_P}/assignment.py", "if not 0 < assignment.seq < 2**53 or", "if", _TRUST),
    Mutant(f"{_P}/assignment.py", " or not 0 < assignment.iat <= assignment.exp < 2**53:", ":", _TRUST),
    Mutant(f"{_P}/assignment.py", "if len(slots) > MAX_ITEMS or len", "if len", _TRUST),
    Mutant(f"{_P}/assignment.py", " or len(set(slots)) != len(slots):", ":", _TRUST),
    Mutant(f"{_P}/assignment.py", "    slot_name(item.slot)\n", "", _TRUST),
    Mutant(f"{_P}/assignment.py", "    digest(item.blob_sha256)\n", "", _TRUST),
    Mutant(f"{_P}/assignment.py", "if (item.encryption, item.kem) != (ALGORITHM, KEM_X25519):", "if False:", _TRUST),
    Mutant(f"{_P}/assignment.py", "(item.wrapped_key, validate=True)", "(item.wrapped_key + '==')", _TRUST),
    Mutant(f"{_P}/assignment.py", "if not 0 < item.blob_bytes < 2**53:", "if False:", _TRUST),
    # --- bytes from outside ---
    Mutant(f"{_P}/strict_json.py", "if len(content) > max_bytes:", "if False:", _SHAPE),
    Mutant(f"{_P}/strict_json.py", "if _depth_bound(content) > _MAX_DEPTH:", "if False:", _SHAPE),
    Mutant(f"{_P}/strict_json.py", "if len(result) != len(pairs):", "if False:", _SHAPE),
    Mutant(f"{_P}/strict_json.py", ", parse_constant=_refuse_constant", "", _SHAPE),
    Mutant(f"{_P}/metadata_bundle.py", "if len(packed) > MAX_PACKED_BYTES:", "if False:", (*_SHAPE, *_ATTACKS, "-k", "bundle")),
    Mutant(f"{_P}/metadata_bundle.py", "if inflater.unconsumed_tail or not inflater.eof:", "if False:", _SHAPE),
    # --- the manifest ---
    Mutant(f"{_P}/manifest.py", "    _check_names(manifest)\n", "", _MANIFEST),
    Mutant(f"{_P}/manifest.py", "    _check_payload(manifest.payload)\n", "", _MANIFEST),
    Mutant(f"{_P}/manifest.py", "    _check_tensors(manifest)\n", "", _MANIFEST),
    Mutant(f"{_P}/manifest.py", "    _check_golden(manifest)\n", "", _MANIFEST),
    Mutant(f"{_P}/manifest.py", "        slot_name(manifest.slot)\n", "", _MANIFEST),
    Mutant(f"{_P}/manifest.py", "if part.offset != end or part.length <= 0:", "if False:", _MANIFEST),
    Mutant(f"{_P}/manifest.py", "if set(golden.latency_budget_ms) != set(manifest.boards):", "if False:", _MANIFEST),
    # --- sealing ---
    Mutant(f"{_P}/envelope.py", "_joined(fleet.encode(), device.encode(),", "_joined(fleet.encode(),", _SEALED),
    Mutant(f"{_P}/envelope.py", "_joined(fleet.encode(), device.encode(),", "_joined(device.encode(),", _SEALED),
    Mutant(f"{_P}/envelope.py", "bytes.fromhex(manifest), bytes.fromhex(blob))", "bytes.fromhex(manifest))", _SEALED),
    Mutant(f"{_P}/envelope.py", "bytes.fromhex(manifest), bytes.fromhex(blob))", "bytes.fromhex(blob))", _SEALED),
    Mutant(f"{_P}/envelope.py", "if len(key) != KEY_BYTES:", "if False:", _SEALED),
    Mutant(f"{_P}/envelope.py", "if derived[KEY_BYTES + _NONCE_BYTES :] != commitment:", "if False:", _SEALED),
    Mutant(f"{_P}/envelope.py", "if len(content) != end - start:", "if False:", _SEALED),
    Mutant(f"{_P}/envelope.py", "_KDF_LABEL + salt + blob_context(manifest)", "_KDF_LABEL + salt", _SEALED),
    # --- metadata on the device ---
    Mutant(f"{_A}/trust.py", "updater._trusted_set.reference_time = dt.datetime.fromtimestamp(now_s, dt.UTC)", "pass",
           ("tests/agent/test_trust_memory.py", "-k", "clock")),
    Mutant(f"{_A}/trust.py", "            updater.get_targetinfo(_ANY_MODEL)\n", "", _some(_ATTACKS, "test_11 or test_22")),
    Mutant(f"{_A}/trust.py", "        check_metadata(versions, memory)\n", "", _some(_ATTACKS, "test_9 or test_10")),
    Mutant(f"{_A}/trust.py", "for name, meta in trusted.snapshot.meta.items()}", "for name, meta in ()}",
           _some(_ATTACKS, "test_26b")),
    Mutant(f"{_A}/trust.py", "min(trusted.timestamp.expires, trusted.root.expires)", "trusted.root.expires",
           ("tests/agent/test_trust_memory.py", "-k", "vouches")),
    Mutant(f"{_A}/trust.py", "        target.verify_length_and_hashes(content)\n", "", _some(_ATTACKS, "test_11")),
    Mutant(f"{_A}/trust.py", "if not isinstance(floor, int) or isinstance(floor, bool) or floor < 0:", "if False:",
           ("tests/agent/test_trust_memory.py", "-k", "floor")),
    Mutant(f"{_A}/intake.py", "if digest_of(content) == digest:", "if True:", _some(_ATTACKS, "ignored")),
    Mutant(f"{_A}/intake.py", "if execution.slot not in self._slots:", "if False:",
           ("tests/agent/test_updater_install.py", "-k", "does_not_have")),
    Mutant(f"{_A}/intake.py", "            self._journal.remember(remembered)\n", "            pass\n",
           _some(_ATTACKS, "test_9 or test_10")),
    Mutant(f"{_A}/intake.py", "contract.trusted_now(self._clock(), self._journal.remembered.memory, trust.BUILD_S)",
           "self._clock()", ("tests/agent/test_trust_memory.py", "-k", "clock")),
    Mutant(f"{_A}/intake.py", "clock_believed=self._clock() >= max(kept.time_s, trust.BUILD_S)", "clock_believed=True",
           ("tests/agent/test_trust_memory.py", "-k", "clock")),
    # --- memory ---
    Mutant(f"{_A}/records.py", "floors=_highest(self.floors, {slot: floor})", "floors={slot: floor}", _MEMORY),
    Mutant(f"{_A}/records.py", "min(float(accepted.assignment.iat), horizon_s)", "float(accepted.assignment.iat)", _MEMORY),
    Mutant(f"{_A}/records.py", "            seq=accepted.assignment.seq,\n", "", _some(_ATTACKS, "test_1_")),
    Mutant(f"{_A}/records.py", "            floors=_highest(newer.floors, older.floors),\n", "", _MEMORY),
    Mutant(f"{_A}/records.py", "            versions=_highest(newer.versions, older.versions),\n", "", _MEMORY),
    Mutant(f"{_A}/records.py", "            time_s=max(newer.time_s, older.time_s),\n", "", _MEMORY),
    Mutant(f"{_A}/records.py", "if is_lost and hmac.compare_digest(envelope, remembered.assignment):", "if is_lost:", _MEMORY),
    Mutant(f"{_A}/records.py", "if digest_of(self.manifest) != self.digest:", "if False:", _MEMORY),
    Mutant(f"{_A}/records.py", "if hashlib.sha256(body).digest() != content[:_SUM_BYTES]:", "if False:", _MEMORY),
    Mutant(f"{_A}/journal.py", "PRAGMA synchronous=FULL", "PRAGMA synchronous=OFF", _MEMORY),
    Mutant(f"{_A}/runner.py", "if is_whole or (", "if True or (", ("tests/agent/test_updater_install.py", "-k", "partly")),
    # --- ciphertext on disk, plaintext in memory ---
    Mutant(f"{_A}/download.py", "            self._verify(index, content)\n", "            pass\n", _some(_ATTACKS, "test_13")),
    Mutant(f"{_A}/delivery.py", "if self._refused < MAX_REFUSED:", "if True:", _some(_ATTACKS, "keep_a_device_busy")),
    Mutant(f"{_A}/delivery.py", "if came >= LEAST_CHUNKS:", "if True:", _SLOW),
    Mutant(f"{_A}/delivery.py", "self._heard_s = self._judged_s = None", "self._heard_s = None", _SLOW),
    Mutant(f"{_A}/adapters/slots.py", "if length > payload.length:", "if False:", _DISK),
    Mutant(f"{_A}/adapters/slots.py", "if length != payload.length or digest(opened.hexdigest()) != payload.sha256:",
           "if False:", _some(_ATTACKS, "test_17")),
    Mutant(f"{_A}/adapters/slots.py", "if sealed.hexdigest() != blob:", "if False:", _DISK),
    Mutant(f"{_A}/adapters/slots.py", "free - max(0, blob_bytes - held) < self._reserve_bytes", "False", _DISK),
    Mutant(f"{_A}/adapters/slots.py", "            os.fdatasync(self._data)\n", "", _POWER),
    Mutant(f"{_A}/files.py", "        os.fsync(file.fileno())\n", "", _POWER),
    Mutant(f"{_A}/worker/opening.py", "if found != expected:", "if False:", _OPENING),
    Mutant(f"{_A}/worker/opening.py",
           "if position != manifest.payload.length or whole.hexdigest() != manifest.payload.sha256:", "if False:", _OPENING),
    Mutant(f"{_A}/worker/opening.py", "if digest_of(opened[part.name]) != part.sha256:", "if False:", _OPENING),
)  # fmt: skip
