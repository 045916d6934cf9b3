"""JSON from outside, read strictly: bounded, no duplicate keys, no NaN, no deep nesting (SPEC 1.3)."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from fleet_protocol.errors import InputTooLarge, MalformedJson

MAX_BYTES: Final = 65_536
_MAX_DEPTH: Final = 32
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def loads(content: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Parse ``content``; raises InputTooLarge or MalformedJson and nothing else."""
    if len(content) > max_bytes:
        raise InputTooLarge(f"JSON of at most {max_bytes} bytes is accepted here, got {len(content)}")
    # A C-level recursion limit differs between Python builds; counting brackets first is the same everywhere.
    if _depth_bound(content) > _MAX_DEPTH:
        raise MalformedJson(f"JSON nested deeper than {_MAX_DEPTH} levels")
    try:
        return json.loads(content, object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedJson("not valid JSON") from error


def dumps(value: Any) -> bytes:
    """Canonical bytes of ``value``: sorted keys, no spaces, ASCII (SPEC 1.4)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _depth_bound(content: bytes) -> int:
    # Upper bound: brackets inside strings count too, which only makes the check stricter.
    depth = deepest = 0
    for byte in content.translate(None, _NOT_BRACKETS):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        # Two readers that keep different duplicates would disagree about what was signed.
        raise MalformedJson("a JSON object names a key twice")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"{name} is not allowed in JSON")
