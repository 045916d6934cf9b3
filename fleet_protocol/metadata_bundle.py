"""All TUF metadata as one small message: zlib over JSON of names and texts (SPEC 4.4).

The bundle is not signed: TUF verifies what it holds. It is bounded, because a decompressor is the first thing that
untrusted bytes meet.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final

from fleet_protocol import strict_json
from fleet_protocol.errors import InputTooLarge, MalformedMessage

MAX_PACKED_BYTES: Final = 1_000_000
MAX_UNPACKED_BYTES: Final = 4_000_000


def pack(files: Mapping[str, bytes]) -> bytes:
    """Bundle ``files`` (name to UTF-8 text); the same files give the same bytes."""
    return zlib.compress(strict_json.dumps({name: content.decode("utf-8") for name, content in files.items()}), 9)


def unpack(packed: bytes) -> dict[str, bytes]:
    """Inverse of :func:`pack`; raises InputTooLarge, MalformedMessage or MalformedJson."""
    if len(packed) > MAX_PACKED_BYTES:
        raise InputTooLarge(f"a metadata bundle has at most {MAX_PACKED_BYTES} bytes, got {len(packed)}")
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(packed, MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise MalformedMessage("a metadata bundle is zlib-compressed JSON") from error
    if inflater.unconsumed_tail or not inflater.eof:
        raise InputTooLarge(f"a metadata bundle unpacks to at most {MAX_UNPACKED_BYTES} bytes")
    files = strict_json.loads(content, max_bytes=MAX_UNPACKED_BYTES)
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise MalformedMessage("a metadata bundle maps file names to texts")
    return {name: text.encode("utf-8") for name, text in files.items()}
