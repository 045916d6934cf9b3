"""The Mosquitto that the server supervises: found, configured, started, watched, restarted, stopped (DESIGN 9)."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet_protocol.errors import BrokerUnreachable, NotFound
from fleet_protocol.identifiers import DeviceId
from fleet_server.adapters.broker_config import access_list, acl_path, configuration
from fleet_server.adapters.files import PRIVATE, write_file
from fleet_server.config import ServerConfig, StateLayout

log = logging.getLogger(__name__)

ENVIRONMENT: Final = "EDGE_MOSQUITTO"
UNPACKED: Final = Path(sys.prefix) / "opt" / "mosquitto"
"""Where set-up without root unpacks the Debian packages (``usr/sbin/mosquitto``, ``usr/lib/<triplet>``)."""
READY_LIMIT_S: Final = 10.0
STOP_LIMIT_S: Final = 3.0
BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_SETTLED_S: Final = 30.0
_LINES_KEPT: Final = 200
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class MosquittoProgram:
    """An executable, and the variables that it needs to find its libraries."""

    path: Path
    environment: Mapping[str, str]


def find_mosquitto() -> MosquittoProgram:
    """Look in EDGE_MOSQUITTO, PATH, the usual places and this virtual environment; raises NotFound saying what to do."""
    named = os.environ.get(ENVIRONMENT)
    if named is not None:
        if not os.access(named, os.X_OK):
            raise NotFound(f"{ENVIRONMENT}={named} is not a program")
        return MosquittoProgram(Path(named), {})
    found = shutil.which(
        "mosquitto", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    )
    if found is not None:
        return MosquittoProgram(Path(found), {})
    unpacked = UNPACKED / "usr" / "sbin" / "mosquitto"
    if os.access(unpacked, os.X_OK):
        libraries = ":".join(str(path) for path in sorted((UNPACKED / "usr" / "lib").glob("*-linux-gnu*")))
        return MosquittoProgram(unpacked, {"LD_LIBRARY_PATH": libraries})
    raise NotFound(f"mosquitto is not installed; install it (apt install mosquitto) or set {ENVIRONMENT} to its path")


class Mosquitto:
    """One broker process, kept alive by a thread of its own. ``generation`` counts the processes started."""

    def __init__(
        self, program: MosquittoProgram, config: ServerConfig, layout: StateLayout, denied: Collection[DeviceId]
    ) -> None:
        self._program = program
        self._config = config
        self._layout = layout
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._lines: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        self._thread = threading.Thread(target=self._keep_alive, name="broker", daemon=True)
        self.generation = 0
        self.write_access(denied)
        text = configuration(config, layout, pwd.getpwuid(os.getuid()).pw_name)
        write_file(self._configuration_path, text.encode(), PRIVATE)

    def start(self) -> None:
        """Start the broker; returns when it accepts connections. Raises BrokerUnreachable with its last words."""
        self._wait_for_port()
        self._thread.start()
        deadline = time.monotonic() + READY_LIMIT_S
        while not self.is_listening():
            if time.monotonic() > deadline or (self.generation > 0 and not self._is_alive() and self._lines):
                self.stop()
                raise BrokerUnreachable(f"mosquitto did not start: {self.last_words()}")
            self._stopping.wait(0.02)

    def stop(self) -> None:
        """End the broker and its thread. Safe to call twice."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()  # it saves its state and ends
        if self._thread.is_alive():
            self._thread.join(STOP_LIMIT_S)
        if process is not None and process.poll() is None:
            process.kill()
            process.wait(STOP_LIMIT_S)

    def write_access(self, denied: Collection[DeviceId]) -> None:
        """Replace the ACL and have the broker read it."""
        write_file(acl_path(self._layout), access_list(denied).encode(), PRIVATE)
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGHUP)

    @property
    def pid(self) -> int | None:
        """Process id of the running broker."""
        with self._lock:
            return None if self._process is None or self._process.poll() is not None else self._process.pid

    def is_listening(self) -> bool:
        """Whether something accepts connections on the broker's port."""
        with contextlib.suppress(OSError), socket.create_connection(self.address, timeout=1.0):
            return self._is_alive()
        return False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port for a client on this machine."""
        host = self._config.broker_listen
        return ("127.0.0.1" if host in {"0.0.0.0", "::"} else host), self._config.broker_port  # noqa: S104  # compared, not bound

    def last_words(self) -> str:
        """The end of what the broker said, in one line."""
        return "; ".join(list(self._lines)[-3:]) or "it said nothing"

    def _wait_for_port(self) -> None:
        # Somebody else's listener would answer in our broker's place. One of a killed server may still be saving its state.
        deadline = time.monotonic() + STOP_LIMIT_S
        while (taken := _bind_error(self._config.broker_listen, self._config.broker_port)) is not None:
            if time.monotonic() > deadline:
                raise BrokerUnreachable(f"port {self._config.broker_port} for the broker is not free: {taken}")
            self._stopping.wait(0.05)

    @property
    def _configuration_path(self) -> Path:
        return self._layout.broker / "mosquitto.conf"

    def _is_alive(self) -> bool:
        return self.pid is not None

    def _keep_alive(self) -> None:
        # The parent-death signal is tied to the thread that starts the child: this thread lives as long as the broker.
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            process = self._spawn()
            if process is not None:
                self._read_to_end(process)
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - started > _SETTLED_S else failures + 1
            pause = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
            code = None if process is None else process.returncode
            log.error("mosquitto ended with %s (%s); starting it again in %.1f s", code, self.last_words(), pause)
            self._stopping.wait(pause)

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        try:
            process = subprocess.Popen(
                [str(self._program.path), "-c", str(self._configuration_path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"PATH": os.defpath, **self._program.environment},
                start_new_session=True,  # Ctrl-C at the terminal reaches the server, which stops the broker last
                preexec_fn=_end_with_parent(os.getpid()),  # noqa: PLW1509  # two prepared system calls
            )
        except OSError as error:
            self._lines.append(str(error))
            return None
        with self._lock:
            self._process = process
            self.generation += 1
        return process

    def _read_to_end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None  # noqa: S101  # asked for in _spawn
        with process.stderr as stream:
            for line in stream:
                text = line.decode(errors="replace").strip()[:400]
                self._lines.append(text)
                log.debug("mosquitto: %s", text)
        process.wait()


def _bind_error(host: str, port: int) -> str | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror
    return None


def _end_with_parent(parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        # A server that is killed must not leave a broker that holds its port. SIGTERM: the broker saves what is queued.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
