"""Which devices a rollout is for: ``site=berlin,board in (a,b),!legacy``.

Terms are joined by commas and all must hold: ``key=value``, ``key!=value``, ``key in (a,b)``, ``key notin (a,b)``, ``key``
(the device has it), ``!key`` (it has not). Keys are tags, and ``board`` and ``id``. Nothing, or ``all``, is everybody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fleet_protocol.errors import MalformedInput

MAX_CHARACTERS: Final = 400
_MAX_TERMS: Final = 32

_WORD: Final = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"
_TERM: Final = re.compile(
    rf"\s*(?:(?P<absent>!)\s*(?P<absent_key>{_WORD})"
    rf"|(?P<key>{_WORD})(?:\s*(?P<compare>!=|==?)\s*(?P<value>{_WORD})"
    rf"|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*"
)
_VALUE: Final = re.compile(rf"\s*({_WORD})\s*")


class MalformedSelector(MalformedInput):
    """A selector that cannot be read."""

    code = "malformed-selector"


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. ``one-of`` and ``none-of`` compare with ``values``; a device without the key is in none of them."""

    key: str
    test: Literal["present", "absent", "one-of", "none-of"]
    values: frozenset[str] = frozenset()

    def holds(self, attributes: Mapping[str, str]) -> bool:
        """Whether a device with ``attributes`` meets the condition."""
        value = attributes.get(self.key)
        match self.test:
            case "present":
                return value is not None
            case "absent":
                return value is None
            case "one-of":
                return value in self.values
            case "none-of":
                return value not in self.values


@dataclass(frozen=True, slots=True)
class Selector:
    """All terms must hold. Made by :func:`parse`."""

    terms: tuple[Term, ...]

    def matches(self, device: str, board: str, tags: Mapping[str, str]) -> bool:
        """Whether the device is meant. A tag cannot pose as ``board`` or ``id``."""
        attributes = {**tags, "board": board, "id": device}
        return all(term.holds(attributes) for term in self.terms)


def parse(text: str) -> Selector:
    """Parse a selector; raises MalformedSelector pointing at the first character that does not fit."""
    if len(text) > MAX_CHARACTERS:
        raise MalformedSelector(f"a selector has at most {MAX_CHARACTERS} characters, got {len(text)}")
    if text.strip() in {"", "all"}:
        return Selector(())
    terms, at = [], 0
    while True:
        match = _TERM.match(text, at)
        if match is None:
            raise MalformedSelector(f"expected a condition such as site=berlin at {text[at : at + 40]!r}")
        terms.append(_term(match))
        at = match.end()
        if at == len(text):
            break
        if text[at] != ",":
            raise MalformedSelector(f"expected a comma between conditions at {text[at : at + 40]!r}")
        at += 1
    if len(terms) > _MAX_TERMS:
        raise MalformedSelector(f"a selector has at most {_MAX_TERMS} conditions, got {len(terms)}")
    return Selector(tuple(terms))


def _term(match: re.Match[str]) -> Term:
    if match["absent"]:
        return Term(match["absent_key"], "absent")
    key = match["key"]
    if match["compare"]:
        return Term(key, "none-of" if match["compare"] == "!=" else "one-of", frozenset({match["value"]}))
    if match["set"]:
        return Term(key, "one-of" if match["set"] == "in" else "none-of", _values(match["values"]))
    return Term(key, "present")


def _values(text: str) -> frozenset[str]:
    found = set()
    for part in text.split(","):
        match = _VALUE.fullmatch(part)
        if match is None:
            raise MalformedSelector(f"expected a value such as berlin inside the parentheses, got {part[:40]!r}")
        found.add(match[1])
    return frozenset(found)
