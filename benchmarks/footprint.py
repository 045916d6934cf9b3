"""What edgefleet costs: start-up of its programs, installed size per part, memory (proportional set size) of an agent that serves a
model.

Run: python -m benchmarks.footprint. Memory is compared with a bare runtime process that holds the same model, in the same run;
start-up with `python -c pass`.
"""

from __future__ import annotations

import importlib.metadata
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.goals import Goal, print_goals
from fleet_protocol import package
from fleet_server.demo import programs
from fleet_server.demo.author import GOOD, MODEL, compile_recipe, prepare, write_recipe
from fleet_server.demo.dataset import write_frames
from fleet_server.demo.programs import AgentPrograms, ServerPrograms, wait_until

PROGRAMS = ("model-compiler", "fleet-server", "fleetctl", "edge-agent")
BARE = """
import sys, time, onnxruntime, numpy
session = onnxruntime.InferenceSession(open(sys.argv[1], "rb").read())
(first,) = session.get_inputs()
for _ in range(50):
    session.run(None, {first.name: numpy.zeros(first.shape, numpy.float32)})
print("ready", flush=True)
time.sleep(600)
"""


def median_s(command: list[str], runs: int = 7) -> float:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - began

    return statistics.median(once() for _ in range(runs))


def is_installed(name: str) -> bool:
    return any(True for _ in importlib.metadata.Distribution.discover(name=name))


def requirements(name: str, extras: frozenset[str]) -> set[str]:
    """Names of the distributions that ``name`` with ``extras`` needs on this platform."""
    from packaging.requirements import Requirement

    needed = set()
    for text in importlib.metadata.requires(name) or ():
        wanted = Requirement(text)
        is_wanted = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras | {""})
        # Set-up takes openvino-telemetry out again: what is not here costs nothing.
        if is_wanted and is_installed(wanted.name):
            needed |= {wanted.name, *requirements(wanted.name, frozenset(wanted.extras))}
    return needed


def installed_mib(*extras: str) -> float:
    """Size of everything that ``edgefleet[extras]`` installs, by the records of this environment."""
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in requirements("edgefleet", frozenset(extras))}
    files = (file for name in names for file in importlib.metadata.files(name) or ())
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file()) / 2**20


def rss_mib(pid: int) -> float:
    whole = psutil.Process(pid)
    return sum(each.memory_full_info().pss for each in (whole, *whole.children(recursive=True))) / 2**20


def bare_runtime_mib(model: Path) -> float:
    with subprocess.Popen([sys.executable, "-c", BARE, str(model)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            return rss_mib(process.pid)
        finally:
            process.kill()


def serving_agent_mib(root: Path) -> tuple[float, float]:
    """Memory of an agent that serves the int8 model, and of a bare runtime with the same bytes."""
    work = root / "author"
    prepare(work, calibration=range(10_000, 10_040), evaluation=range(120))
    write_frames(root / "frames", range(50_000, 50_020), night_every=0)
    packed = work / "model.efpkg"
    compile_recipe(write_recipe(work, "1.0.0", 1, GOOD), packed)
    with packed.open("rb") as stream:
        manifest = package.read(stream).variants[0].manifest
        payload = b"".join(package.read_payload(stream, manifest.variant))
    part = manifest.part("model")
    (work / "served.onnx").write_bytes(payload[part.offset : part.offset + part.length])
    return _agent_mib(root, packed), bare_runtime_mib(work / "served.onnx")


def _agent_mib(root: Path, packed: Path) -> float:
    server, device = ServerPrograms(root), AgentPrograms(root, "cam-1")
    try:
        server.init("bench")
        server.start()
        device.configure(server.url, root / "frames", bake_s=2.0)
        device.enrol(server.ask("claim", "create", "cam-1", "--board", "generic-x86_64")["claim"])
        device.start()
        server.ctl("release", "create", str(packed), "--keys", str(server.offline_keys))
        wait_until(lambda: server.ask("device", "list")[0]["online"], "the device was online")
        made = server.ask(
            "rollout", "create", f"{MODEL}@1.0.0", "--waves", "100%", "--bake", "1s", "--reason", "bench", "--start"
        )
        server.ctl("rollout", "watch", str(made["id"]), "--timeout", "90s")
        wait_until(lambda: len(device.results(50)) == 50, "50 frames were inferred")
        assert device.process is not None
        return rss_mib(device.process.process.pid)
    finally:
        device.stop()
        server.stop()


def main() -> None:
    bare_s = median_s([sys.executable, "-c", "pass"])
    goals = [
        Goal(f"start-up of {name} --help", median_s([*programs.program(name), "--help"]) * 1e3, "ms", 150)
        for name in PROGRAMS
    ]
    print(f"python -c pass: {bare_s * 1e3:.0f} ms")
    for extras, limit in ((("agent", "onnxruntime"), 500), (("server",), 200), (("compiler",), 1200)):
        goals.append(Goal(f"installed size of [{','.join(extras)}]", installed_mib(*extras), "MiB", limit))
    with tempfile.TemporaryDirectory() as folder:
        agent, bare = serving_agent_mib(Path(folder))
    print(f"bare ONNX Runtime with the same model: {bare:.0f} MiB, the agent is {agent / bare:.1f} times that")
    goals.append(Goal("agent with its worker, serving", agent, "MiB", 250))
    print_goals(goals)


if __name__ == "__main__":
    main()
