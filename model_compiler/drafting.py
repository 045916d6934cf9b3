"""A recipe from the few words of a command line: what they leave open is read from the model, the labels and the boards."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fleet_protocol.board import Board
from fleet_protocol.identifiers import Digest
from fleet_protocol.manifest import Precision, Preprocessing
from model_compiler import boards, guess, images, inputs, labels
from model_compiler.errors import MalformedDataset, UnsupportedModel, UnwantedVariant
from model_compiler.guess import Frame
from model_compiler.onnx_session import OnnxSession
from model_compiler.stages import load, parity
from model_compiler.targets import target

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Wish:
    """What a command line says in place of a recipe. ``size``: width and height where the model leaves them open;
    ``preprocessing``: one of ``guess.NAMES``; ``evaluation`` None: the calibration images are split.
    """

    model: Path
    boards: tuple[str, ...]
    calibration: Path
    labels: Path
    evaluation: Path | None = None
    classes: Path | None = None
    preprocessing: str | None = None
    size: tuple[int, int] | None = None
    max_drop: float = 0.01
    name: str | None = None
    version: str = "1.0.0"
    slot: str = "camera"
    counter: int = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """A recipe's text, to be read relative to the directory that it was drafted for, and what was found out for it."""

    text: str
    notes: tuple[str, ...]


def draft(wish: Wish, folder: Path) -> Draft:
    """Write the recipe that ``wish`` means; paths in it are relative to ``folder``.

    Raises MalformedModel, UnsupportedModel, MalformedDataset, UnknownBoard, AccuracyRefused: with the option that helps.
    """
    profiles = [boards.load(name, folder)[0] for name in wish.boards]
    model = load.load(load.read(wish.model))
    frame = _frame(model, wish)
    session = OnnxSession(parity.runnable(model))
    classes = _classes(wish, session, frame)
    preprocessing, notes = _preprocessing(wish, session, frame, classes)
    return Draft(_text(wish, folder, profiles, classes, preprocessing), notes)


def key_of(wish: Wish, folder: Path, toolchain: Digest) -> Digest:
    """SHA-256 over everything that a draft is made from: the words, the model, labels, class names and images."""
    texts = [repr(wish), str(folder), toolchain, load.read(wish.model).digest, inputs.read_labels(wish.labels)]
    texts += [inputs.read_labels(wish.classes)] if wish.classes else []
    texts += [text.decode() for text in (boards.load(name, folder)[1] for name in wish.boards)]
    return images.digest(images.list_images(_labelled(wish)), *(text.encode() for text in texts))


def name_of(model: Path) -> str:
    """A model name from a file name: small letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", model.stem.lower()).strip("-")[:48] or "model"


def _frame(model: ModelProto, wish: Wish) -> Frame:
    weights = {each.name for each in model.graph.initializer}
    found = [each for each in model.graph.input if each.name not in weights]
    sides = [side.dim_value for side in found[0].type.tensor_type.shape.dim] if len(found) == 1 else []
    if len(sides) != 4 or not {sides[1], sides[3]} & {1, 3}:
        raise UnsupportedModel(
            f"{wish.model} does not take one image of shape [1, 3, H, W] or [1, H, W, 3]; write a recipe for it"
        )
    is_planar = sides[1] in {1, 3}
    channels, height, width = sides[1:] if is_planar else (sides[3], sides[1], sides[2])
    if wish.size and not height and not width:
        width, height = wish.size
    if not width or not height:
        raise UnsupportedModel(f"{wish.model} takes pictures of any size; say which with --size WIDTHxHEIGHT")
    return Frame(width, height, channels, "nchw" if is_planar else "nhwc")


def _classes(wish: Wish, session: OnnxSession, frame: Frame) -> tuple[str, ...]:
    """Names in the order of the model's outputs: from a file, or numbers, or the labels sorted."""
    import numpy as np

    if wish.classes:
        return labels.parse_classes(inputs.read_labels(wish.classes))
    shape = (1, frame.channels, frame.height, frame.width)
    tensor = np.zeros(shape if frame.layout == "nchw" else (1, *shape[2:], shape[1]), np.float32)
    outputs = session.run([tensor])[0].size
    found = labels.distinct(inputs.read_labels(wish.labels))
    if all(each.isascii() and each.isdigit() for each in found):
        return tuple(str(number) for number in range(outputs))
    if len(found) != outputs:
        raise MalformedDataset(
            f"{wish.labels} has {len(found)} different labels, {wish.model} has {outputs} outputs; name its classes in their "
            "order, one a line, in a file given with --classes"
        )
    return tuple(found)


def _preprocessing(
    wish: Wish, session: OnnxSession, frame: Frame, classes: tuple[str, ...]
) -> tuple[Preprocessing, tuple[str, ...]]:
    if wish.preprocessing:
        return guess.usual(wish.preprocessing, frame), ()
    everything = labels.match(inputs.read_labels(wish.labels), images.list_images(_labelled(wish)), classes)
    # Chosen on the images that also calibrate, so that the evaluation stays unseen.
    seen, _ = inputs.split(everything)
    best, second, *_ = guess.find(lambda tensor: session.run([tensor])[0], seen, frame)
    note = (
        f"pre-processing {best.name!r} was chosen: {best.accuracy:.3f} of its answers are right, "
        f"{second.accuracy:.3f} with {second.name!r}"
    )
    return best.wanted, (note,)


def _labelled(wish: Wish) -> Path:
    return wish.evaluation or wish.calibration


def _text(
    wish: Wish, folder: Path, profiles: Sequence[Board], classes: tuple[str, ...], preprocessing: Preprocessing
) -> str:
    def path(found: Path) -> str:
        return os.path.relpath(found, folder)

    evaluation = {"evaluation": path(wish.evaluation)} if wish.evaluation else {}
    tables: dict[str, dict[str, Any]] = {
        "data": {"calibration": path(wish.calibration), **evaluation, "labels": path(wish.labels)},
        "classes": {"names": list(classes)},
        "preprocessing": msgspec.to_builtins(preprocessing),
        "gate": {"max_drop": wish.max_drop},
    }
    top = {
        "model": wish.name or name_of(wish.model),
        "version": wish.version,
        "slot": wish.slot,
        "counter": wish.counter,
        "source": path(wish.model),
        "boards": list(wish.boards),
        "variants": _precisions(profiles),
    }
    sections = [_rows(top), *(f"[{name}]\n{_rows(table)}" for name, table in tables.items())]
    return "\n".join(sections)


def _rows(table: dict[str, Any]) -> str:
    # JSON's strings, numbers and lists of them are also TOML's.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items() if value is not None)


def _precisions(profiles: Sequence[Board]) -> list[Precision]:
    """Everything that some board runs and its runtime's target makes, in the boards' order of preference."""
    found = dict.fromkeys(
        precision
        for board in profiles
        for precision in board.runtime.precisions
        if precision in target(board.runtime.name).PRECISIONS
    )
    if not found:
        names = ", ".join(board.name for board in profiles)
        raise UnwantedVariant(f"this compiler makes no variant for the boards {names}")
    return list(found)
