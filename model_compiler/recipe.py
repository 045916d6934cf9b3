"""The recipe: what to compile, for which boards, on which images, within which loss. Text in, checked value out."""

from __future__ import annotations

import difflib
import tomllib
from typing import Any, Final, Literal

import msgspec

from fleet_protocol import identifiers
from fleet_protocol.errors import MalformedIdentifier
from fleet_protocol.manifest import Baked, Precision, Preprocessing
from fleet_protocol.tasks import Postprocessing
from model_compiler.errors import MalformedRecipe
from model_compiler.graph import Combination, Rule

MAX_BYTES: Final = 1 << 20
MAX_FRAMES: Final = 64
MAX_SIDE: Final = 8192
MAX_MEMBERS: Final = 8


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are errors: a misspelt gate must not silently become no gate."""


class Data(_Table, frozen=True):
    """Paths relative to the recipe: two directories of images and what is true of the second.

    ``labels`` is a CSV file ``file,label``, for a detector a COCO file .json; without it fp32's answers stand for the truth.
    Without ``evaluation`` the labels are those of ``calibration``, which is split: every fifth image calibrates.
    """

    calibration: str
    labels: str = ""
    evaluation: str = ""


class Classes(_Table, frozen=True):
    """Names of the model's outputs in order: in place, or one a line in ``file``; exactly one of the two."""

    names: tuple[str, ...] = ()
    file: str = ""


class Ensemble(_Table, frozen=True):
    """Several classifiers that answer as one: ``sources`` are their files, in the order that a cascade asks them.

    ``average`` of their confidences, ``vote`` of their classes, ``cascade``: the second is asked where the first is less
    confident than ``threshold``.
    """

    sources: tuple[str, ...]
    combine: Rule
    threshold: float = 0.0


class Reading(_Table, frozen=True, omit_defaults=True):
    """The task, and what its outputs need to be read: the keys of :mod:`fleet_protocol.tasks` without the labels."""

    task: Literal["classification", "detection", "segmentation", "anomaly", "embedding"] = "classification"
    activation: Literal["none", "softmax", "sigmoid"] | None = None
    decoder: Literal["fastestdet", "yolov5", "yolov8", "boxes"] | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_boxes: int | None = None
    threshold: float | None = None
    is_normalised: bool | None = None

    def of(self, labels: tuple[str, ...]) -> Postprocessing:
        """The task with its ``labels``; raises MalformedRecipe where a key is missing or belongs to another task."""
        usual = {"activation": "none"} if self.task == "classification" else {}
        given = {"task": self.task, **usual, **msgspec.to_builtins(self), "labels": labels}
        try:
            task: Postprocessing = msgspec.convert(given, Postprocessing, strict=True)
        except msgspec.ValidationError as error:
            raise MalformedRecipe(f"postprocessing of a {self.task}: {error}") from error
        return task


class Gate(_Table, frozen=True):
    """Refuse a variant whose accuracy falls by more than ``max_drop`` below fp32, or below ``min_accuracy`` (both 0..1).

    ``confidence``: how sure the paired test must be that no more is lost; 0.5 takes the drop on the images as it is, 0.95
    asks for enough images to prove it. ``aim``: the drop at which the search is content, where it is below ``max_drop``;
    it stops as soon as the images prove that no more is lost. ``metric``: by default the task's own, else a name or ``package.module:attribute``.
    """

    max_drop: float
    min_accuracy: float = 0.0
    confidence: float = 0.5
    aim: float = 0.02
    metric: str = ""


class GoldenFrames(_Table, frozen=True):
    """How many frames every device replays before it switches."""

    frames: int = 8


class Recipe(_Table, frozen=True):
    """One compilation. Made by :func:`parse` only."""

    model: str
    version: str
    slot: str
    counter: int
    boards: tuple[str, ...]
    variants: tuple[Precision, ...]
    data: Data
    classes: Classes
    preprocessing: Preprocessing
    gate: Gate
    source: str = ""
    ensemble: Ensemble | None = None
    postprocessing: Reading = Reading()
    baked: Baked | None = None
    golden: GoldenFrames = GoldenFrames()

    @property
    def combination(self) -> Combination:
        """How an ensemble's members answer as one; the recipe has an ensemble."""
        wanted, activation = self.ensemble, self.postprocessing.activation or "none"
        if wanted is None:
            raise RuntimeError("a recipe without an ensemble combines nothing")
        return Combination(wanted.combine, activation, wanted.threshold)


def parse(text: str) -> Recipe:
    """Parse a recipe's TOML; raises MalformedRecipe naming the key that is wrong, missing or unknown."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MalformedRecipe(f"the recipe is not valid TOML: {error}") from error
    _refuse_unknown(raw, Recipe, "")
    try:
        recipe = msgspec.convert(raw, Recipe, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedRecipe(f"recipe: {error}") from error
    _check_identity(recipe)
    _check_lists(recipe)
    _check_numbers(recipe)
    _check_preprocessing(recipe.preprocessing)
    _check_baked(recipe)
    _check_ensemble(recipe)
    return recipe


def _refuse_unknown(table: dict[str, Any], wanted: type[msgspec.Struct], where: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(wanted)}
    for key, value in table.items():
        if key not in fields:
            nearest = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
            raise MalformedRecipe(f"the recipe has an unknown key {where}{key}; did you mean {where}{nearest[0]}?")
        if isinstance(value, dict) and isinstance(fields[key], type) and issubclass(fields[key], msgspec.Struct):
            _refuse_unknown(value, fields[key], f"{where}{key}.")


def _check_identity(recipe: Recipe) -> None:
    try:
        identifiers.model_name(recipe.model)
        identifiers.model_version(recipe.version)
        identifiers.slot_name(recipe.slot)
    except MalformedIdentifier as error:
        raise MalformedRecipe(str(error)) from error
    if not 0 < recipe.counter < 2**53:
        raise MalformedRecipe(f"counter grows with every release and starts at 1, got {recipe.counter}")


def _check_lists(recipe: Recipe) -> None:
    for key, values in (("boards", recipe.boards), ("variants", recipe.variants)):
        if not values or len(set(values)) != len(values):
            raise MalformedRecipe(f"{key} names at least one of its kind, each once, got {list(values)}")
    if bool(recipe.classes.names) == bool(recipe.classes.file):
        raise MalformedRecipe("give the classes either as classes.names or as classes.file")


def _check_numbers(recipe: Recipe) -> None:
    if not (0 <= recipe.gate.max_drop <= 1 and 0 <= recipe.gate.min_accuracy <= 1):
        raise MalformedRecipe("gate.max_drop and gate.min_accuracy are shares between 0 and 1")
    if not 0 <= recipe.gate.aim <= 1:
        raise MalformedRecipe(f"gate.aim is a share between 0 and 1, got {recipe.gate.aim}")
    if not 0.5 <= recipe.gate.confidence < 1:
        raise MalformedRecipe(f"gate.confidence is at least 0.5 and below 1, got {recipe.gate.confidence}")
    if not 0 < recipe.golden.frames <= MAX_FRAMES:
        raise MalformedRecipe(f"golden.frames is 1 to {MAX_FRAMES}, got {recipe.golden.frames}")


def _check_preprocessing(wanted: Preprocessing) -> None:
    channels = 1 if wanted.color == "gray" else 3
    if not (0 < wanted.width <= MAX_SIDE and 0 < wanted.height <= MAX_SIDE):
        raise MalformedRecipe(f"preprocessing.width and .height are 1 to {MAX_SIDE}")
    if len(wanted.mean) != channels or len(wanted.std) != channels or 0 in wanted.std:
        raise MalformedRecipe(f"preprocessing.mean and .std have {channels} values for {wanted.color}, no std is zero")


def _check_baked(recipe: Recipe) -> None:
    size = recipe.baked
    if recipe.preprocessing.baked is not None:
        raise MalformedRecipe("the size of the frame that a model takes in stands in [baked], not in [preprocessing]")
    if size is not None and not (0 < size.width <= MAX_SIDE and 0 < size.height <= MAX_SIDE):
        raise MalformedRecipe(f"baked.width and .height are 1 to {MAX_SIDE}")


def _check_ensemble(recipe: Recipe) -> None:
    wanted = recipe.ensemble
    if bool(recipe.source) == (wanted is not None):
        raise MalformedRecipe("give the model either as source or as the sources of an [ensemble]")
    if wanted is None:
        return
    if recipe.postprocessing.task != "classification":
        raise MalformedRecipe("an ensemble is made of classifiers; compile other models one by one")
    if recipe.baked is not None:
        raise MalformedRecipe("pre-processing cannot be baked into an ensemble; leave out [baked]")
    if not 2 <= len(wanted.sources) <= MAX_MEMBERS:
        raise MalformedRecipe(f"ensemble.sources are 2 to {MAX_MEMBERS} models, got {len(wanted.sources)}")
    is_cascade = wanted.combine == "cascade"
    if is_cascade and (len(wanted.sources) != 2 or not 0 < wanted.threshold < 1):
        raise MalformedRecipe("a cascade has two sources and an ensemble.threshold between 0 and 1")
    if not is_cascade and wanted.threshold:
        raise MalformedRecipe("only a cascade has an ensemble.threshold")
