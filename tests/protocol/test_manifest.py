"""Manifests: exact bytes, and nothing that does not add up (SPEC 3)."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol import manifest as manifests
from fleet_protocol.errors import MalformedInput, MalformedManifest
from tests.protocol import samples


def test_a_manifest_reads_back_and_its_bytes_are_canonical() -> None:
    made = samples.manifest()
    assert manifests.parse(made.encode()) == made
    assert made.encode() == json.dumps(json.loads(made.encode()), sort_keys=True, separators=(",", ":")).encode()
    assert made.target_path == "models/orientation/1.0.0-ort-int8.json"


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        *way, last = path.split(".")
        here: Any = raw
        for step in way:
            here = here[int(step)] if isinstance(here, list) else here[step]
        here[int(last) if isinstance(here, list) else last] = value

    change.__name__ = f"{path}={value!r}"[:60]
    return change


CHANGES = [
    put("schema", 2),
    put("slot", "../etc"),
    put("model", "a/b"),
    put("counter", 0),
    put("counter", 2**53),
    put("boards", []),
    put("boards", ["raspberry-pi-5"]),
    put("surprise", 1),
    put("runtime.name", "pickle"),
    put("runtime.surprise", 1),
    put("payload.length", 1),
    put("payload.parts.0.offset", 1),
    put("payload.parts.0.length", 0),
    put("payload.parts.0.name", "pickle"),
    put("payload.sha256", "x"),
    put("inputs.0.shape", [1, 3, -1, 4]),
    put("inputs.0.shape", [1, 3, 5, 5]),
    put("inputs.0.shape", [65_536, 65_536]),
    put("outputs", []),
    put("outputs.0.dtype", "object"),
    put("preprocessing.mean", [0.0]),
    put("preprocessing.std", [1.0, 0.0, 1.0]),
    put("golden.frames", 3),
    put("golden.frames", 0),
    put("golden.decisive", [True]),
    put("golden.atol", -1.0),
    put("golden.max_outliers", 1.0),
    put("golden.latency_budget_ms", {}),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_manifest_that_does_not_add_up_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads(samples.manifest().encode())
    change(raw)
    with pytest.raises(MalformedManifest):
        manifests.parse(json.dumps(raw).encode())


@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_never_crashes_the_parser(at: int, value: int) -> None:
    content = bytearray(samples.manifest().encode())
    content[at % len(content)] = value
    try:
        manifests.parse(bytes(content))
    except MalformedInput:
        pass


def test_the_digest_is_pinned() -> None:
    """The canonical form is part of the contract: the same manifest has had this digest since schema 1."""
    stable = samples.manifest(payload=manifests.payload_of([("model", b"m"), ("golden", bytes(2 * 200))])[0])
    assert manifests.digest_of_manifest(stable) == "ed3311f3e652284fdae826f8af97cfd7de7d1b349b8da0f5cd71cd553ed78e7e"
