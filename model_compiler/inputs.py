"""Everything that a compilation reads, found, bounded and hashed before any work begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from fleet_protocol.board import Board
from fleet_protocol.identifiers import Digest, digest_of
from fleet_protocol.tasks import Postprocessing
from model_compiler import boards, coco, images, labels, recipe
from model_compiler.errors import MalformedDataset, MalformedRecipe
from model_compiler.images import UNLABELLED, Image, LabelledImage
from model_compiler.recipe import Recipe
from model_compiler.stages import load
from model_compiler.stages.load import Source

SPLIT_STEP: Final = 5
MAX_SPLIT: Final = 300


@dataclass(frozen=True, slots=True)
class Inputs:
    """One compilation's inputs. ``settings_digest`` covers recipe, classes and boards, ``evaluation_digest`` also the
    labels. ``members``: the models of an ensemble; ``source`` is then the first, with the digest of all. ``notes``: what was
    found out on the way and belongs into the record.
    """

    recipe: Recipe
    source: Source
    classes: tuple[str, ...]
    task: Postprocessing
    boards: tuple[Board, ...]
    calibration: tuple[Image, ...]
    evaluation: tuple[LabelledImage, ...]
    calibration_digest: Digest
    evaluation_digest: Digest
    settings_digest: Digest
    notes: tuple[str, ...] = ()
    members: tuple[Source, ...] = ()


def gather(path: Path) -> Inputs:
    """Read the recipe at ``path`` and all that it names, relative to its directory; raises MalformedInput, UnknownBoard."""
    return gather_text(_read_text(path, recipe.MAX_BYTES, MalformedRecipe), path.parent)


def read_recipe(path: Path) -> Recipe:
    """The recipe alone; raises MalformedRecipe."""
    return recipe.parse(_read_text(path, recipe.MAX_BYTES, MalformedRecipe))


def gather_text(content: str, folder: Path, notes: tuple[str, ...] = ()) -> Inputs:
    """The same for a recipe's text whose paths are relative to ``folder``."""
    wanted = recipe.parse(content)
    profiles = [boards.load(name, folder) for name in wanted.boards]
    _refuse_twins([board for board, _ in profiles])
    classes = _classes(wanted, folder)
    source, members = _sources(wanted, folder)
    # An ensemble's graph gives confidences: whatever its members' scores need is inside.
    reading = msgspec.structs.replace(wanted.postprocessing, activation="none") if members else wanted.postprocessing
    task = reading.of(classes)
    table = read_labels(folder / wanted.data.labels) if wanted.data.labels else ""
    calibration, evaluation = _images(wanted, folder, table, classes)
    settings = [content.encode(), "\n".join(classes).encode(), *(text for _, text in profiles)]
    return Inputs(
        recipe=wanted,
        source=source,
        classes=classes,
        task=task,
        boards=tuple(board for board, _ in profiles),
        calibration=calibration,
        evaluation=evaluation,
        calibration_digest=images.digest(calibration),
        evaluation_digest=images.digest([each.image for each in evaluation], table.encode()),
        settings_digest=digest_of(b"".join(len(each).to_bytes(8, "big") + each for each in settings)),
        notes=notes,
        members=members,
    )


def _sources(wanted: Recipe, folder: Path) -> tuple[Source, tuple[Source, ...]]:
    if wanted.ensemble is None:
        return load.read(folder / wanted.source), ()
    members = tuple(load.read(folder / each) for each in wanted.ensemble.sources)
    return replace(members[0], digest=digest_of("".join(each.digest for each in members).encode())), members


def split(everything: Sequence[LabelledImage]) -> tuple[tuple[LabelledImage, ...], tuple[LabelledImage, ...]]:
    """Every fifth image calibrates, at most 300; the others evaluate. Images of a class are neighbours, so classes spread."""
    ordered = sorted(everything, key=lambda each: (each.label, each.image.name))
    step = max(SPLIT_STEP, -(-len(ordered) // MAX_SPLIT))
    return tuple(ordered[::step]), tuple(each for place, each in enumerate(ordered) if place % step)


def _images(
    wanted: Recipe, folder: Path, table: str, classes: tuple[str, ...]
) -> tuple[tuple[Image, ...], tuple[LabelledImage, ...]]:
    """The images that calibrate and, disjoint from them, the labelled ones that evaluate."""
    calibration = images.list_images(folder / wanted.data.calibration)
    if wanted.data.evaluation:
        evaluation = images.list_images(folder / wanted.data.evaluation)
        return calibration, _labelled(wanted, table, _enough(evaluation, wanted), classes)
    seen, unseen = split(_labelled(wanted, table, calibration, classes))
    _enough([each.image for each in unseen], wanted)
    return tuple(each.image for each in seen), unseen


def _labelled(
    wanted: Recipe, table: str, found: Sequence[Image], classes: tuple[str, ...]
) -> tuple[LabelledImage, ...]:
    if not wanted.data.labels:
        return tuple(LabelledImage(each, UNLABELLED) for each in found)
    if wanted.data.labels.endswith(".json"):
        return coco.match(table, found, classes, wanted.preprocessing)
    if wanted.postprocessing.task not in {"classification", "anomaly"}:
        raise MalformedRecipe(
            f"labels of a {wanted.postprocessing.task} are no CSV file of classes; leave data.labels out"
        )
    return labels.match(table, found, classes)


def read_labels(path: Path) -> str:
    """The text of a file of labels; raises MalformedDataset where it is missing, too large or not UTF-8."""
    return _read_text(path, labels.MAX_BYTES, MalformedDataset)


def _classes(wanted: Recipe, folder: Path) -> tuple[str, ...]:
    if wanted.classes.names:
        return labels.check_classes(wanted.classes.names, _fewest(wanted))
    text = _read_text(folder / wanted.classes.file, labels.MAX_BYTES, MalformedDataset)
    return labels.check_classes(labels.parse_classes(text), _fewest(wanted))


def _fewest(wanted: Recipe) -> int:
    # One kind of object can be looked for, and a vector has one name; a choice needs two.
    return 1 if wanted.postprocessing.task in {"detection", "embedding"} else 2


def _enough(evaluation: Sequence[Image], wanted: Recipe) -> Sequence[Image]:
    if len(evaluation) < wanted.golden.frames:
        raise MalformedDataset(
            f"{wanted.golden.frames} golden frames are to be chosen from {len(evaluation)} evaluation images; add images"
        )
    return evaluation


def _refuse_twins(profiles: list[Board]) -> None:
    names = [board.name for board in profiles]
    if len(set(names)) != len(names):
        raise MalformedRecipe(f"two of the recipe's boards have the same name: {', '.join(names)}")


def _read_text(path: Path, limit: int, refusal: type[MalformedRecipe | MalformedDataset]) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise refusal(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise refusal(f"{path} has more than {limit} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(f"{path} is not UTF-8 text") from error
