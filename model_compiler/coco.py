"""Boxes from a COCO file, matched with the images that they lie in. Text in, value out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from fleet_protocol.detect import Boxes
from fleet_protocol.imaging import letterbox_size
from fleet_protocol.manifest import Preprocessing
from model_compiler.errors import MalformedDataset
from model_compiler.images import UNLABELLED, Image, LabelledImage

MAX_BOXES: Final = 10_000_000


class _Picture(msgspec.Struct, frozen=True):
    id: int
    file_name: str
    width: int
    height: int


class _Category(msgspec.Struct, frozen=True):
    id: int
    name: str


class _Annotation(msgspec.Struct, frozen=True):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Coco(msgspec.Struct, frozen=True):
    images: list[_Picture]
    categories: list[_Category]
    annotations: list[_Annotation]


def match(
    text: str, pictures: Sequence[Image], classes: tuple[str, ...], wanted: Preprocessing
) -> tuple[LabelledImage, ...]:
    """Give every picture its boxes from COCO ``text``, as shares of the model's input that ``wanted`` makes.

    Crowds are left out. Raises MalformedDataset where the text is no COCO file, a picture is not in it, or a category is
    none of ``classes``.
    """
    try:
        coco = msgspec.json.decode(text, type=_Coco)
    except msgspec.DecodeError as error:
        raise MalformedDataset(f"the labels are no COCO file of boxes: {error}") from error
    if len(coco.annotations) > MAX_BOXES:
        raise MalformedDataset(f"the labels hold more than {MAX_BOXES} boxes")
    described = {each.file_name: each for each in coco.images}
    missing = [each.name for each in pictures if each.name not in described]
    if missing:
        raise MalformedDataset(
            f"{len(missing)} of {len(pictures)} images are not in the labels, the first {missing[0]!r}"
        )
    kinds = _kinds(coco, classes)
    rows: dict[int, list[_Annotation]] = {}
    for each in coco.annotations:
        if not each.iscrowd:
            rows.setdefault(each.image_id, []).append(each)
    return tuple(
        LabelledImage(each, UNLABELLED, _boxes(rows.get(picture.id, []), kinds, picture, wanted))
        for each in pictures
        for picture in [described[each.name]]
    )


def _kinds(coco: _Coco, classes: tuple[str, ...]) -> dict[int, int]:
    places = {name: index for index, name in enumerate(classes)}
    foreign = [each.name for each in coco.categories if each.name not in places]
    if foreign:
        raise MalformedDataset(
            f"the labels know the category {foreign[0][:80]!r}, which is none of the recipe's classes"
        )
    return {each.id: places[each.name] for each in coco.categories}


def _boxes(rows: Sequence[_Annotation], kinds: dict[int, int], picture: _Picture, wanted: Preprocessing) -> Boxes:
    import numpy as np

    if any(each.category_id not in kinds for each in rows) or not (picture.width > 0 and picture.height > 0):
        raise MalformedDataset(
            f"{picture.file_name!r} has no size in the labels, or a box of a category that they do not name"
        )
    size = wanted.width, wanted.height
    inner = letterbox_size(picture.width, picture.height, wanted) if wanted.resize == "letterbox" else size
    shift = np.array([(size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2] * 2, np.float64)
    scale = np.array([inner[0] / picture.width, inner[1] / picture.height] * 2, np.float64)
    pixels = np.array([each.bbox for each in rows], np.float64).reshape(-1, 4)
    corners = np.concatenate([pixels[:, :2], pixels[:, :2] + pixels[:, 2:]], 1) * scale + shift
    return Boxes(
        (corners / np.array([*size, *size], np.float64)).astype(np.float32),
        np.ones(len(rows), np.float32),
        np.array([kinds[each.category_id] for each in rows], np.int32),
    )
