"""``model-compiler diff``: what changed between two packages, before one replaces the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fleet_protocol.manifest import GOLDEN_PART, Manifest
from model_compiler.commands.options import cache_option, json_option, package_argument
from model_compiler.packages import PackageFile, open_package
from model_compiler.report import weights
from model_compiler.report.record import Record

_ONNX = frozenset({"onnxruntime"})
_NAMED = 6


@click.command("diff")
@package_argument("before")
@package_argument("after")
@json_option("The differences as JSON on stdout.")
@cache_option
def command(before: Path, after: Path, *, as_json: bool, cache_dir: Path | None) -> None:
    r"""Compare the packages BEFORE and AFTER: variants, accuracy, size, latency where it is known here, layers and weights.

    \b
    Example:
      model-compiler diff textline-orientation-1.0.0.efpkg textline-orientation-1.1.0.efpkg
    """
    old, new = open_package(before), open_package(after)
    found = compare(old, new, old.record(cache_dir), new.record(cache_dir))
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{old.contents.model} {old.contents.version} -> {new.contents.model} {new.contents.version}")
    for line in lines(found):
        click.echo(line)


def compare(old: PackageFile, new: PackageFile, was: Record | None, now: Record | None) -> dict[str, Any]:
    """Every variant of both packages: only in one, the same to the byte, or what became of each of its numbers."""
    before = {each.manifest.variant: each.manifest for each in old.contents.variants}
    after = {each.manifest.variant: each.manifest for each in new.contents.variants}
    variants = {
        name: {
            "same_model": _model(before[name]) == _model(after[name]),
            "numbers": _numbers(before[name], after[name], was, now),
            "layers": _layers(old, new, before[name], after[name]),
        }
        for name in before
        if name in after
    }
    return {
        "same_file": old.digest == new.digest,
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "variants": variants,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The comparison for people: one block per variant, only what changed."""
    if found["same_file"]:
        return ["the same file, to the byte"]
    told = [f"{word} {name}" for word in ("added", "removed") for name in found[word]]
    for name, each in found["variants"].items():
        told.append(f"{name}: {'the same model file' if each['same_model'] else 'another model file'}")
        told += [f"  {key:<18} {was} -> {now}" for key, (was, now) in each["numbers"].items() if was != now]
        told += [f"  {line}" for line in _layer_lines(each["layers"])]
    return told


def _numbers(old: Manifest, new: Manifest, was: Record | None, now: Record | None) -> dict[str, tuple[Any, Any]]:
    pairs = {
        "accuracy": (old.measured.value, new.measured.value),
        "fp32 accuracy": (old.measured.baseline, new.measured.baseline),
        "samples": (old.measured.samples, new.measured.samples),
        "model bytes": (old.measured.model_bytes, new.measured.model_bytes),
        "made by": (old.provenance.toolchain.get("method"), new.provenance.toolchain.get("method")),
        "boards": (list(old.boards), list(new.boards)),
        "labels": (_labels(old), _labels(new)),
        "golden tolerance": (old.golden.atol, new.golden.atol),
        "source": (old.provenance.source_sha256, new.provenance.source_sha256),
        "calibration set": (old.provenance.calibration_sha256, new.provenance.calibration_sha256),
        "evaluation set": (old.provenance.evaluation_sha256, new.provenance.evaluation_sha256),
    }
    if was and now and (before := was.variant(old.variant)) and (after := now.variant(new.variant)):
        pairs["p50 ms"] = before.timing.p50_ms, after.timing.p50_ms
        pairs["RAM bytes"] = before.timing.resident_bytes, after.timing.resident_bytes
    return pairs


def _model(manifest: Manifest) -> list[tuple[str, str]]:
    return [(part.name, part.sha256) for part in manifest.payload.parts if part.name != GOLDEN_PART]


def _labels(manifest: Manifest) -> list[str]:
    return list(manifest.postprocessing.labels)


def _layers(old: PackageFile, new: PackageFile, before: Manifest, after: Manifest) -> dict[str, Any] | None:
    """None where the file's format is not one that layers can be read from."""
    if not {before.runtime.name, after.runtime.name} <= _ONNX:
        return None
    return asdict(weights.difference(weights.layers(old.model(before)), weights.layers(new.model(after))))


def _layer_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    words = {
        "added": "layers added",
        "removed": "layers removed",
        "precision": "other precision",
        "weights": "other weights",
    }
    told = [f"{word}: {_named(found[key])}" for key, word in words.items() if found[key]]
    return [*told, f"layers unchanged: {found['same']}"] if told else []


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} ({', '.join(names[:_NAMED])}{more})"
