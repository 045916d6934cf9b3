"""A release's upload, streamed part by part into the state directory: memory stays flat, nothing lands in a shared /tmp."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Final

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool

from fleet_protocol.errors import InputTooLarge, MalformedInput

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_METADATA_BYTES: Final = 1_000_000
_PACKAGE: Final = "package"
_METADATA: Final = "metadata"


@dataclass(frozen=True, slots=True)
class Upload:
    """What came: the package as a file that lives as long as the request, the signed metadata as bytes."""

    package: Path
    metadata: bytes


@asynccontextmanager
async def received(request: Request, folder: Path) -> AsyncIterator[Upload]:
    """Read a multipart body with the parts ``package`` and ``metadata``; raises MalformedInput or InputTooLarge."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise MalformedInput("a release is uploaded as multipart/form-data with the parts package and metadata")
    with _place(folder) as place:
        package = place / "package"
        with package.open("xb") as stream:
            parts = _Parts(stream)
            parser = MultipartParser(options[b"boundary"], parts.callbacks())
            try:
                async for piece in request.stream():
                    await run_in_threadpool(parser.write, piece)
                parser.finalize()
            except MultipartParseError as error:
                raise MalformedInput("the upload's multipart frame is broken or was cut; send it again") from error
        yield Upload(package, parts.complete())


@contextmanager
def _place(folder: Path) -> Iterator[Path]:
    folder.mkdir(mode=0o700, exist_ok=True)
    with TemporaryDirectory(dir=folder) as place:
        yield Path(place)


class _Parts:
    """Sorts the bytes of a multipart body: the package to a file, the metadata to memory, anything else is refused."""

    def __init__(self, package: IO[bytes]) -> None:
        self._package = package
        self._metadata = bytearray()
        self._seen: set[str] = set()
        self._ended = False
        self._header = bytearray()
        self._value = bytearray()
        self._name = ""

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda chunk, start, end: self._header.extend(chunk[start:end]),
            "on_header_value": lambda chunk, start, end: self._value.extend(chunk[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._content,
            "on_end": self._end,
        }

    def complete(self) -> bytes:
        """The metadata; raises MalformedInput where a part is missing or the body ended early."""
        if not self._ended or self._seen != {_PACKAGE, _METADATA}:
            raise MalformedInput(
                "a release's upload has the parts package and metadata, and this one was cut or lacks one"
            )
        return bytes(self._metadata)

    def _begin(self) -> None:
        self._name = ""

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"").decode("latin-1")
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        if self._name not in {_PACKAGE, _METADATA} or self._name in self._seen:
            raise MalformedInput("a release's upload has the parts package and metadata, each once")
        self._seen.add(self._name)

    def _content(self, chunk: bytes, start: int, end: int) -> None:
        if self._name == _PACKAGE:
            self._package.write(chunk[start:end])
            return
        self._metadata += chunk[start:end]
        if len(self._metadata) > MAX_METADATA_BYTES:
            raise InputTooLarge(f"signed metadata has at most {MAX_METADATA_BYTES} bytes")

    def _end(self) -> None:
        self._ended = True
