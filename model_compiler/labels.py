"""Class names and labels, matched with the images that they describe. Text in, value out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from model_compiler.errors import MalformedDataset
from model_compiler.images import Image, LabelledImage

if TYPE_CHECKING:
    from _csv import Reader

MAX_BYTES: Final = 64 << 20
MAX_CLASSES: Final = 65_536


def parse_classes(text: str) -> tuple[str, ...]:
    """Class names, one a line, in the order of the model's outputs; empty lines are left out."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def check_classes(names: tuple[str, ...], fewest: int = 2) -> tuple[str, ...]:
    """``names`` itself; raises MalformedDataset where there are fewer than ``fewest``, too many, or one twice."""
    if not fewest <= len(names) <= MAX_CLASSES:
        raise MalformedDataset(f"this task has {fewest} to {MAX_CLASSES} classes, the recipe names {len(names)}")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
    if twice:
        raise MalformedDataset(f"class {twice[0]!r} is named twice")
    return names


def match(text: str, images: Sequence[Image], classes: tuple[str, ...]) -> tuple[LabelledImage, ...]:
    """Give every image its label from CSV ``text`` with the header ``file,label``; columns after these are not read.

    A label is a class name, else a class index. Raises MalformedDataset where a row is malformed, an image has no label
    or two, or a label has no image.
    """
    labels = _parse(text, {name: index for index, name in enumerate(classes)})
    missing = [image.name for image in images if image.name not in labels]
    if missing:
        raise MalformedDataset(
            f"{len(missing)} of {len(images)} evaluation images have no label, the first {missing[0]!r}"
        )
    surplus = sorted(set(labels) - {image.name for image in images})
    if surplus:
        raise MalformedDataset(f"{len(surplus)} labels name no evaluation image, the first {surplus[0]!r}")
    return tuple(LabelledImage(image, labels[image.name]) for image in images)


def distinct(text: str) -> list[str]:
    """The labels in CSV ``text``, each once, sorted; raises MalformedDataset."""
    rows = csv.reader(io.StringIO(text, newline=""))
    if next(rows, [])[:2] != ["file", "label"]:
        raise MalformedDataset("the labels begin with the header file,label")
    try:
        return sorted({row[1].strip() for row in rows if len(row) > 1})
    except csv.Error as error:
        raise MalformedDataset(f"line {rows.line_num} of the labels is not CSV: {error}") from error


def _parse(text: str, classes: dict[str, int]) -> dict[str, int]:
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        return _labels(rows, classes)
    except csv.Error as error:
        raise MalformedDataset(f"line {rows.line_num} of the labels is not CSV: {error}") from error


def _labels(rows: Reader, classes: dict[str, int]) -> dict[str, int]:
    header = next(rows, [])
    if header[:2] != ["file", "label"]:
        raise MalformedDataset("the labels begin with the header file,label")
    labels: dict[str, int] = {}
    for row in filter(None, rows):
        if len(row) != len(header):
            raise MalformedDataset(
                f"line {rows.line_num} of the labels should be {','.join(header)[:80]}, got {','.join(row)[:80]!r}"
            )
        name, label = row[0].strip(), row[1].strip()
        if name in labels:
            raise MalformedDataset(f"line {rows.line_num} of the labels names {name!r} a second time")
        labels[name] = _index(label, classes, rows.line_num)
    return labels


def _index(label: str, classes: dict[str, int], line: int) -> int:
    if label in classes:
        return classes[label]
    if label.isascii() and label.isdigit() and int(label[:9]) < len(classes) and len(label) < 9:
        return int(label)
    raise MalformedDataset(
        f"line {line} of the labels says {label[:80]!r}, which is neither a class name nor an index below {len(classes)}"
    )
