"""Which server, with which token: flag, then environment, then context file (pure but for reading and writing that file)."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec

from fleet_protocol.errors import MalformedConfig, MalformedIdentifier, NotAuthenticated, NotFound
from fleet_protocol.identifiers import fleet_id

MAX_TOKEN_BYTES: Final = 4096
_TOKEN: Final = re.compile(r"eft_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Flags:
    """What was said at the command line before the noun; None where nothing was."""

    server: str | None = None
    ca: str | None = None
    token_file: str | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A server to talk to: its URL, the file with the fleet's CA, the token."""

    server: str
    ca: Path
    token: str = field(repr=False)


class _Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    server: str
    ca: str
    token: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    current: str = ""
    contexts: dict[str, _Context] = {}


@dataclass(frozen=True, slots=True)
class Contexts:
    """All contexts of a person, in one file of mode 0600. ``current``: used where none is named."""

    path: Path
    current: str
    known: Mapping[str, Target]

    @classmethod
    def load(cls, path: Path) -> Contexts:
        """Read the file; no file is no context. Raises MalformedConfig."""
        try:
            content = msgspec.convert(tomllib.loads(path.read_text("utf-8")), _File, strict=True)
        except FileNotFoundError:
            return cls(path, "", {})
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise MalformedConfig(f"{path} is not a fleetctl configuration: {error}") from error
        known = {name: Target(each.server, Path(each.ca), each.token) for name, each in content.contexts.items()}
        return cls(path, content.current, known)

    def with_context(self, name: str, target: Target) -> Contexts:
        """Also ``name``, which becomes the current one; raises MalformedIdentifier."""
        fleet_id(name)
        return replace(self, current=name, known={**self.known, name: target})

    def without(self, name: str) -> Contexts:
        """All but ``name``; raises NotFound."""
        self.named(name)
        left = {each: target for each, target in self.known.items() if each != name}
        return replace(self, current="" if name == self.current else self.current, known=left)

    def named(self, name: str) -> Target:
        """One context; raises NotFound."""
        if name not in self.known:
            raise NotFound(f"there is no context {name!r}; `fleetctl context list` shows them")
        return self.known[name]

    def save(self) -> None:
        """Write the file whole or not at all, readable by its owner only: it holds tokens."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(self._encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def _encode(self) -> str:
        lines = [f"current = {_quoted(self.current)}"]
        for name, target in sorted(self.known.items()):
            lines += ["", f"[contexts.{name}]", f"server = {_quoted(target.server)}"]
            lines += [f"ca = {_quoted(str(target.ca))}", f"token = {_quoted(target.token)}"]
        return "\n".join(lines) + "\n"


def config_path(environ: Mapping[str, str]) -> Path:
    """``$XDG_CONFIG_HOME/edgefleet/config.toml``, by default below ``~/.config``."""
    base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", ".")) / ".config"
    return Path(base) / "edgefleet" / "config.toml"


def resolve(flags: Flags, environ: Mapping[str, str], contexts: Contexts) -> Target:
    """The target by precedence, each part on its own; raises NotAuthenticated naming the part that is missing."""
    name = flags.context or environ.get("EDGE_CONTEXT") or contexts.current
    context = contexts.named(name) if name else None
    token = read_token(Path(flags.token_file)) if flags.token_file else environ.get("EDGE_TOKEN")
    server = flags.server or environ.get("EDGE_SERVER") or (context.server if context else None)
    ca = flags.ca or environ.get("EDGE_CA") or (context.ca if context else None)
    if token is None and context is not None and server == context.server:
        # A token is only ever sent to the server that it was given for.
        token = context.token
    parts = {"--server": server, "--ca": ca, "--token-file": token}
    missing = next((flag for flag, value in parts.items() if not value), None)
    if missing or not (server and ca and token):
        raise NotAuthenticated(
            f"no {(missing or '')[2:]} is known; `fleetctl context add` keeps one, or give {missing}"
        )
    return Target(checked_server(server), Path(ca), checked_token(token))


def checked_server(url: str) -> str:
    """An ``https`` address without path; raises MalformedConfig."""
    from urllib.parse import urlsplit

    parts = urlsplit(url.rstrip("/"))
    if parts.scheme != "https" or not parts.hostname or parts.path or parts.query or parts.username:
        raise MalformedConfig(f"a server's address reads https://host:port, got {url[:120]!r}")
    return f"https://{parts.netloc}"


def checked_token(text: str) -> str:
    """A token; raises MalformedIdentifier without repeating it."""
    if not _TOKEN.fullmatch(text.strip()):
        raise MalformedIdentifier("a token is eft_ and 43 characters; copy it again without line breaks")
    return text.strip()


def read_token(path: Path) -> str:
    """The token in a file; raises NotFound."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise NotFound(f"the token file {path} cannot be read") from error


def _quoted(text: str) -> str:
    # A JSON string is also a TOML string.
    return msgspec.json.encode(text).decode()
