"""HTTPS to the fleet server, believing exactly the fleet's CA (urllib3)."""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from fleet_protocol.errors import InputTooLarge, MalformedMessage, NotFound, ServerUnreachable, WrongPin
from fleet_server.fleetctl.refusals import ServerRefused
from fleet_server.fleetctl.target import Target

MAX_ANSWER_BYTES: Final = 16 * 1024**2
_TIMEOUT: Final = urllib3.Timeout(connect=10.0, read=60.0)
_UPLOAD_TIMEOUT: Final = urllib3.Timeout(connect=10.0, read=1800.0)
_PIECE: Final = 1 << 20


class Connection:
    """Requests with one token to one server. Every method raises ServerRefused, ServerUnreachable or WrongPin."""

    def __init__(self, target: Target) -> None:
        """Raises NotFound where the CA file cannot be read."""
        context = ssl.create_default_context(cafile=_existing(target.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        address = urlsplit(target.server)
        self._pool = urllib3.HTTPSConnectionPool(
            address.hostname or "", address.port, ssl_context=context, retries=False
        )
        self._server = target.server
        self._headers = {"Authorization": f"Bearer {target.token}", "Accept": "application/json"}

    def get(self, path: str, **query: str | int | None) -> Any:
        """The JSON at ``path``; parameters that are None are left out."""
        return self._json("GET", path, fields={key: str(value) for key, value in query.items() if value is not None})

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post JSON; the JSON of the answer, None where it has none."""
        return self._json("POST", path, body=json.dumps(body), headers={"Content-Type": "application/json"})

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """Put JSON; the JSON of the answer."""
        return self._json("PUT", path, body=json.dumps(body), headers={"Content-Type": "application/json"})

    def download(self, path: str) -> bytes:
        """The bytes at ``path``, at most 16 MiB."""
        return self._send("GET", path)

    def upload(self, path: str, fields: Mapping[str, bytes], package: Path, progress: Callable[[int], None]) -> Any:
        """Post ``fields`` and the file ``package`` as multipart; ``progress`` gets the bytes of the file sent so far."""
        boundary = secrets.token_hex(16)
        head = b"".join(_part(boundary, name) + content + b"\r\n" for name, content in fields.items())
        head, tail = head + _part(boundary, "package"), f"\r\n--{boundary}--\r\n".encode()
        length = len(head) + package.stat().st_size + len(tail)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Content-Length": str(length)}
        with package.open("rb") as file:
            body = _framed(head, file, tail, progress)
            return self._json("POST", path, body=body, headers=headers, timeout=_UPLOAD_TIMEOUT)

    def close(self) -> None:
        """Close what is kept open for the next request."""
        self._pool.close()

    def _json(self, method: str, path: str, **options: Any) -> Any:
        content = self._send(method, path, **options)
        if not content:
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise MalformedMessage(f"{self._server} did not answer with JSON: is it a fleet server?") from error

    def _send(self, method: str, path: str, **options: Any) -> bytes:
        headers = self._headers | options.pop("headers", {})
        options.setdefault("timeout", _TIMEOUT)
        with self._translated():
            response = self._pool.request(
                method, path, headers=headers, preload_content=False, redirect=False, **options
            )
            try:
                content: bytes = response.read(MAX_ANSWER_BYTES + 1)
            finally:
                response.release_conn()
        if len(content) > MAX_ANSWER_BYTES:
            raise InputTooLarge(f"{self._server} answered with more than {MAX_ANSWER_BYTES} bytes")
        _check(response.status, content)
        return content

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (HTTPError, OSError) as error:
            cause = error.reason if isinstance(error, MaxRetryError) else error
            if isinstance(cause, SSLError | ssl.SSLError):
                raise WrongPin(f"{self._server} did not prove that it belongs to this fleet's CA") from error
            raise ServerUnreachable(f"{self._server} does not answer; is `fleet-server run` running there?") from error


def _check(status: int, content: bytes) -> None:
    if 200 <= status < 300:
        return
    try:
        problem = json.loads(content)
        code, sentence = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        code, sentence = "http-error", f"the server answered with HTTP status {status}"
    raise ServerRefused(status, code, sentence)


def _existing(ca: Path) -> str:
    if not ca.is_file():
        raise NotFound(f"the fleet's CA certificate {ca} cannot be read")
    return str(ca)


def _part(boundary: str, name: str) -> bytes:
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def _framed(head: bytes, file: IO[bytes], tail: bytes, progress: Callable[[int], None]) -> Iterator[bytes]:
    yield head
    sent = 0
    while piece := file.read(_PIECE):
        yield piece
        sent += len(piece)
        progress(sent)
    yield tail
