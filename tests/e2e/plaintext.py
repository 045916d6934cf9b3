"""Does any of these bytes hold a 64-byte run of that plaintext?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

BLOCK = 32
MIN_DISTINCT = 12


def telling_blocks(plaintext: bytes) -> frozenset[bytes]:
    """The 32-byte blocks of ``plaintext`` at multiples of 32 that are not mere padding or repetition.

    Any 64-byte run covers one such block whole, wherever it starts, so looking for these blocks at every offset misses none.
    """
    blocks = (plaintext[at : at + BLOCK] for at in range(0, len(plaintext) - BLOCK + 1, BLOCK))
    return frozenset(block for block in blocks if len(set(block)) >= MIN_DISTINCT)


def leaks(blocks: frozenset[bytes], content: bytes) -> bool:
    """Whether ``content`` holds one of ``blocks`` at any offset."""
    return any(content[at : at + BLOCK] in blocks for at in range(len(content) - BLOCK + 1))


def leaking_files(blocks: frozenset[bytes], roots: Iterable[Path]) -> list[str]:
    """Names of the files below ``roots`` that hold one of ``blocks``."""
    files = (path for root in roots for path in root.rglob("*") if path.is_file())
    return [path.name for path in files if leaks(blocks, path.read_bytes())]
