"""Tags of devices: what a name and a value may look like (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from fleet_protocol.errors import MalformedInput

MAX_TAGS: Final = 32
RESERVED: Final = frozenset({"id", "board"})
"""Names that a selector already knows."""
_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_VALUE: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises MalformedInput naming the tag that a device cannot have."""
    if len(tags) > MAX_TAGS:
        raise MalformedInput(f"a device has at most {MAX_TAGS} tags, got {len(tags)}")
    for key, value in tags.items():
        if not _KEY.fullmatch(key) or key in RESERVED:
            raise MalformedInput(f"a tag's name is lower-case and neither id nor board, got {key[:80]!r}")
        if not _VALUE.fullmatch(value):
            raise MalformedInput(
                f"a tag's value is 1-63 letters, digits, dots, dashes or underscores, got {value[:80]!r}"
            )
