"""What a compilation gives: a package that keeps its promises, the same one every time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import numpy_helper

from fleet_protocol import golden, package
from fleet_protocol.errors import GoldenFramesDiffer
from fleet_protocol.fingerprint import Fingerprint
from fleet_protocol.identifiers import digest_of
from fleet_protocol.manifest import Manifest
from model_compiler.cli import run
from model_compiler.onnx_session import OnnxSession
from tests.compiler.workshop import Workshop

COMMAND = [sys.executable, "-c", "from model_compiler.cli import main; main()"]


def package_of(workshop: Workshop) -> Path:
    (path,) = workshop.out.iterdir()
    return path


def contents(path: Path) -> tuple[package.ModelPackage, dict[str, bytes]]:
    with path.open("rb") as stream:
        read = package.read(stream)
        payloads = {
            each.manifest.variant: b"".join(package.read_payload(stream, each.manifest.variant))
            for each in read.variants
        }
    return read, payloads


def model_of(manifest: Manifest, payload: bytes) -> bytes:
    part = manifest.part("model")
    return payload[part.offset : part.offset + part.length]


def replay(manifest: Manifest, payload: bytes, model: bytes) -> float:
    """The golden frames of ``payload`` on ``model``, judged as a device judges them."""
    part = manifest.part("golden")
    frames = golden.unpack(
        payload[part.offset : part.offset + part.length], manifest.inputs, manifest.outputs, manifest.golden.frames
    )
    session = OnnxSession(model)
    got = [session.run(inputs) for inputs, _ in frames]
    return golden.compare(manifest.golden, manifest.outputs, [outputs for _, outputs in frames], got)


def test_a_package_holds_the_variants_in_the_boards_order_of_preference(compiled: Workshop) -> None:
    read, _ = contents(package_of(compiled))
    assert package_of(compiled).name == "shapes-1.0.0.efpkg"
    assert [each.manifest.variant for each in read.variants] == ["ort-int8", "ort-fp32"]
    chosen = read.choose(Fingerprint("raspberry-pi-5", "onnxruntime", "1.28.0", "aarch64"))
    assert chosen is not None
    assert chosen.manifest.variant == "ort-int8"


def test_a_manifest_says_what_was_asked_for_and_measured(compiled: Workshop) -> None:
    read, _ = contents(package_of(compiled))
    for each in (variant.manifest for variant in read.variants):
        assert (each.model, each.version, each.slot, each.counter) == ("shapes", "1.0.0", "camera", 1)
        assert each.boards == ("generic-x86_64", "raspberry-pi-5")
        assert each.runtime.architectures == ("aarch64", "x86_64")
        assert each.golden.latency_budget_ms == {"generic-x86_64": 100.0, "raspberry-pi-5": 120.0}
        assert each.postprocessing.labels == ("up", "down", "square")
        assert each.measured.samples == 90
        assert each.measured.baseline > 0.9
        assert each.measured.value >= each.measured.baseline - 0.02
        assert each.provenance.source_sha256 == digest_of((compiled.path / "model.onnx").read_bytes())


def test_the_recorded_accuracy_is_what_the_packaged_model_reaches(
    compiled: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    for variant in ("ort-int8", "ort-fp32"):
        arguments = ["--images", str(compiled.path / "evaluation"), "--labels", str(compiled.path / "labels.csv")]
        assert run(["eval", str(package_of(compiled)), *arguments, "--variant", variant, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["variant"] == variant
        assert found["value"] == pytest.approx(found["recorded"], abs=1e-6)


def test_the_int8_model_computes_with_per_channel_integers(compiled: Workshop) -> None:
    read, payloads = contents(package_of(compiled))
    int8 = read.variants[0].manifest
    model = onnx.load_from_string(model_of(int8, payloads[int8.variant]))
    scales = {
        each.name: numpy_helper.to_array(each) for each in model.graph.initializer if each.name.endswith("_scale")
    }
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) >= 3
    assert any(scale.shape == (16,) for scale in scales.values())
    weights = [each for each in model.graph.initializer if each.name.endswith("_quantized")]
    assert onnx.TensorProto.INT8 in {each.data_type for each in weights}


def test_both_variants_can_be_read_by_the_oldest_runtime_that_a_board_asks_for(compiled: Workshop) -> None:
    """ONNX Runtime 1.17, named by the boards, reads IR 9 and opset 20 at most."""
    read, payloads = contents(package_of(compiled))
    for each in read.variants:
        model = onnx.load_from_string(model_of(each.manifest, payloads[each.manifest.variant]))
        assert model.ir_version <= 9
        assert max(entry.version for entry in model.opset_import if entry.domain == "") <= 20


def test_golden_frames_pass_on_the_packaged_model(compiled: Workshop) -> None:
    read, payloads = contents(package_of(compiled))
    for each in (variant.manifest for variant in read.variants):
        payload = payloads[each.variant]
        assert replay(each, payload, model_of(each, payload)) <= each.golden.atol
        assert sum(each.golden.decisive) >= each.golden.frames // 2


@pytest.mark.parametrize("variant", [0, 1])
def test_golden_frames_fail_on_a_damaged_model(compiled: Workshop, variant: int) -> None:
    read, payloads = contents(package_of(compiled))
    manifest = read.variants[variant].manifest
    payload = payloads[manifest.variant]
    model = onnx.load_from_string(model_of(manifest, payload))
    kernel = max(model.graph.initializer, key=lambda each: numpy_helper.to_array(each).size)
    kernel.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(kernel), 1), kernel.name))
    with pytest.raises(GoldenFramesDiffer):
        replay(manifest, payload, model.SerializeToString())


def test_two_processes_make_the_same_package_to_the_byte(pristine: Workshop, tmp_path: Path) -> None:
    """Two processes with two caches, at the same time, with different numbers of threads."""
    shops = [pristine.copy_to(tmp_path / name) for name in ("one", "two")]
    runs = [
        subprocess.Popen(
            [*COMMAND, "compile", shop.recipe, "--out", shop.out, "--cache", shop.path / "cache", "--jobs", jobs],
            stdout=subprocess.DEVNULL,
        )
        for shop, jobs in zip(shops, ("1", "3"), strict=True)
    ]
    assert [process.wait(timeout=120) for process in runs] == [0, 0]
    first, second = (package_of(shop).read_bytes() for shop in shops)
    assert first == second


def test_the_same_inputs_are_compiled_once(
    compiled: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again.efpkg"
    arguments = ["compile", str(compiled.recipe), "--cache", str(compiled.path / "cache"), "--json"]
    assert run([*arguments, "--out", str(again)]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["cached"] is True
    assert printed.err == ""
    assert again.read_bytes() == package_of(compiled).read_bytes()


def test_a_damaged_cache_entry_is_made_again(shapes: Workshop, compiled: Workshop) -> None:
    shutil.copytree(compiled.path / "cache", shapes.path / "cache")
    (entry,) = (shapes.path / "cache").glob("*.efpkg")
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    assert shapes.compile() == 0
    assert contents(entry)[1] == contents(package_of(shapes))[1]


def test_json_gives_one_result_on_stdout_and_events_on_stderr(
    shapes: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes.replace('variants = ["fp32", "int8"]', 'variants = ["fp32"]')
    assert shapes.compile("--json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["package"] == str(package_of(shapes))
    assert [row["variant"] for row in result["variants"]] == ["ort-fp32"]
    events = [json.loads(line) for line in printed.err.splitlines()]
    last = {event["stage"]: event for event in events}
    assert set(last) == {"normalise", "build", "evaluate", "prove"}
    assert all(event["done"] == event["total"] for event in last.values())


def test_inspect_shows_every_manifest_in_full(compiled: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(package_of(compiled)), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    read, _ = contents(package_of(compiled))
    assert [each["digest"] for each in shown["variants"]] == [each.digest for each in read.variants]
    assert [each["manifest"] for each in shown["variants"]] == [
        json.loads(each.manifest_bytes) for each in read.variants
    ]


def test_inspect_shows_people_a_table(compiled: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(package_of(compiled))]) == 0
    shown = capsys.readouterr().out
    assert "ort-int8" in shown
    assert "qdq-u8s8-" in shown
    assert "for generic-x86_64, raspberry-pi-5" in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if line.startswith("ort-int8  "))


def test_timings_are_shown_where_the_package_was_compiled(
    compiled: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def column(cache: Path) -> str:
        assert run(["inspect", str(package_of(compiled)), "--cache", str(cache)]) == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ort-int8 "))
        return row.split()[4]

    assert float(column(compiled.path / "cache")) > 0
    assert column(tmp_path) == "-"


def test_a_bit_flipped_in_a_package_is_noticed(
    compiled: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = bytearray(package_of(compiled).read_bytes())
    spoiled[len(spoiled) // 2] ^= 1
    path = tmp_path / "spoiled.efpkg"
    path.write_bytes(spoiled)
    assert run(["inspect", str(path)]) == 1
    assert capsys.readouterr().err.startswith("error [malformed-package]: ")


def wait_for_measuring_process(parent: int) -> None:
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        children = psutil.Process(parent).children(recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("spawn_main" in " ".join(child.cmdline()) for child in children):
                return
    pytest.fail("no process was started to measure in")


@pytest.mark.parametrize("stage", ["ranges", "prove"])
def test_interrupting_leaves_nothing_behind(shapes: Workshop, stage: str) -> None:
    arguments = ["compile", shapes.recipe, "--out", shapes.out, "--cache", shapes.path / "cache", "--json"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if json.loads(line)["stage"] == stage:
            break
    if stage == "prove":
        wait_for_measuring_process(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "interrupted; no package was written"
    assert "Traceback" not in err
    assert list(shapes.out.iterdir()) == []
    # Ranges serve the next attempt; nothing that is not whole is left.
    assert [path for path in (shapes.path / "cache").rglob("*") if path.is_file() and path.suffix != ".npz"] == []


def test_the_command_line_starts_without_heavy_imports() -> None:
    heavy = "{'onnx', 'onnxruntime', 'onnxslim', 'numpy', 'cv2', 'rich', 'msgspec'}"
    code = f"import sys, model_compiler.cli; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("arguments", [[], ["compile"], ["inspect"], ["report"], ["diff"], ["bench"], ["eval"]])
def test_help_shows_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*arguments, "--help"]) == 0
    assert "Example:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["melt"], ["compile"], ["compile", "recipe.toml", "--jobs", "0"], ["inspect", "absent"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Error: " in capsys.readouterr().err
