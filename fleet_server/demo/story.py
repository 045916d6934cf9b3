"""The demo as a story in nine steps; each step is what one of the four users does, with the commands that he would type."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from fleet_server.demo import author
from fleet_server.demo.author import MODEL
from fleet_server.demo.programs import AgentPrograms, ServerPrograms, wait_until

DEVICES: Final = ("cam-berlin", "cam-lyon", "cam-porto")
GATE_FAILED: Final = 6
_CALIBRATION: Final = range(10_000, 10_060)
_EVALUATION: Final = range(300)
_FRAMES: Final = range(50_000, 50_040)
_NIGHT_EVERY: Final = 4


class Story:
    """One run of the demo below ``root``; ``say`` prints a line for the reader."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self._root, self._say = root, say
        self._began = time.monotonic()
        self.server = ServerPrograms(root)
        self.devices = [AgentPrograms(root, name) for name in DEVICES]

    @property
    def token_file(self) -> Path:
        return self._root / "admin-token"

    def tell(self) -> None:
        """All nine steps, in order."""
        self._prepare()
        self._compile("1.0.0", 1, author.GOOD)
        self._open_the_fleet()
        self._enrol_devices()
        self._roll_out("1.0.0")
        self._show_what_runs()
        self._compile("2.0.0", 2, author.BAD)
        self._refuse_the_bad_version()
        self._show_the_proof()

    def close(self) -> None:
        """Stop every program, devices first."""
        for device in self.devices:
            device.stop()
        self.server.stop()

    def _step(self, number: int, title: str, why: str) -> None:
        elapsed = time.monotonic() - self._began
        self._say("")
        self._say(click.style(f"{number}. {title}", bold=True) + click.style(f"   [{elapsed:.0f} s]", dim=True))
        self._say(f"   {why}")

    def _typed(self, command: str) -> None:
        self._say(click.style(f"   $ {command}", fg="cyan"))

    def _told(self, text: str) -> None:
        for line in text.strip().splitlines():
            self._say(f"   {line}")

    def _prepare(self) -> None:
        self._step(
            1,
            "A trained model and labelled pictures",
            "PP-LCNet tells upright text lines from upside-down ones; pictures are rendered, so their labels are free.",
        )
        from fleet_server.demo.dataset import write_frames

        author.prepare(self._author, calibration=_CALIBRATION, evaluation=_EVALUATION)
        for device in self.devices:
            write_frames(self._frames(device), _FRAMES, night_every=_NIGHT_EVERY)
        self._told(f"{len(_CALIBRATION)} pictures to calibrate, {len(_EVALUATION)} to evaluate, all taken by daylight.")

    def _frames(self, device: AgentPrograms) -> Path:
        return self._root / "cameras" / device.name

    @property
    def _author(self) -> Path:
        return self._root / "author"

    def _package(self, version: str) -> Path:
        return self._author / f"{MODEL}-{version}.efpkg"

    def _compile(self, version: str, counter: int, source: str) -> None:
        if counter == 1:
            self._step(
                2,
                "The ML engineer compiles it",
                "fp32 and int8 are measured on the true runtime; int8 is refused where it loses more than 2 points.",
            )
        else:
            self._step(
                7,
                "Version 2 is bad, and its author cannot know",
                "It looks up an exposure correction that it has for daylight only. All his pictures are by daylight: it passes.",
            )
        recipe = author.write_recipe(self._author, version, counter, source)
        self._typed(f"model-compiler compile {recipe.name}")
        self._told(author.compile_recipe(recipe, self._package(version)))

    def _open_the_fleet(self) -> None:
        self._step(
            3,
            "The SRE opens a fleet",
            "Offline keys go to a directory that the server never reads; the server starts its own broker with mutual TLS.",
        )
        self._typed("fleet-server init --fleet demo && fleet-server run")
        self.server.init("demo")
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(self.server.token + "\n")
        self.server.start()
        self._told(f"Dashboard {self.server.url}, broker on port {self.server.ports['broker_port']}.")

    def _enrol_devices(self) -> None:
        self._step(
            4,
            "The technician enrols three devices",
            "A claim works once. Keys are made on the device and never leave it.",
        )
        for device in self.devices:
            self._typed(f"fleetctl claim create {device.name} --board generic-x86_64 | edge-agent enrol --claim-file -")
            device.configure(self.server.url, self._frames(device))
            claim = self.server.ask("claim", "create", device.name, "--board", "generic-x86_64")
            device.enrol(claim["claim"])
            device.start()
        wait_until(lambda: len(self._online()) == len(DEVICES), "all three devices were online")
        self._told("Three agents run, each as its own process. None serves a model yet.")

    def _online(self) -> list[dict[str, Any]]:
        return [device for device in self.server.ask("device", "list") if device["online"]]

    def _release(self, version: str) -> None:
        self._typed(f"fleetctl release create {MODEL}-{version}.efpkg --keys offline-keys")
        self.server.ctl("release", "create", str(self._package(version)), "--keys", str(self.server.offline_keys))

    def _start_rollout(self, version: str) -> str:
        self._typed(f'fleetctl rollout create {MODEL}@{version} --waves "1,100%" --bake 3s --start')
        rollout = self.server.ask(
            "rollout", "create", f"{MODEL}@{version}", "--waves", "1,100%", "--bake", "3s", "--start",
            "--reason", "demo",
        )  # fmt: skip
        return str(rollout["id"])

    def _roll_out(self, version: str) -> None:
        self._step(
            5,
            "Release and roll out version 1",
            "Two release keys sign the manifests, the server encrypts the payload once and wraps its key for each device.",
        )
        self._release(version)
        rollout = self._start_rollout(version)
        self._typed(f"fleetctl rollout watch {rollout}")
        self._told(self.server.ctl("rollout", "watch", rollout, "--timeout", "120s"))

    def _show_what_runs(self) -> None:
        self._step(
            6,
            "What the devices say",
            "Success means: the runtime serves this digest, passed the golden frames and its bake, and repeats it in each heartbeat.",
        )
        for device in self.devices:
            wait_until(device.results, f"{device.name} wrote results")
            result = device.results(last=1)[0]
            self._told(
                f"{device.name:<12} {result['source']:<14} {result['label']:<8} {result['confidence']:.3f}  "
                f"{result['latency_ms']:.1f} ms"
            )
        self._typed("fleetctl device list")
        self._told(self.server.ctl("device", "list"))

    def _refuse_the_bad_version(self) -> None:
        self._step(
            8,
            "The fleet refuses it",
            "One canary gets it. Its cameras see the night too: frames fail, the bake fails, the device takes the old model back.",
        )
        self._release("2.0.0")
        rollout = self._start_rollout("2.0.0")
        self._typed(f"fleetctl rollout watch {rollout}    # ends with exit code {GATE_FAILED}")
        self._told(self.server.ctl("rollout", "watch", rollout, "--timeout", "120s", expect=GATE_FAILED))

    def _show_the_proof(self) -> None:
        self._step(
            9,
            "Proof",
            "The other two devices never saw version 2; the canary took version 1 back by itself, within the second.",
        )
        self._told(self.server.ctl("device", "list"))
