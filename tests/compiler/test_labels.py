"""Labels are matched with images exactly, or refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_compiler.errors import MalformedDataset
from model_compiler.images import Image
from model_compiler.labels import check_classes, match, parse_classes

IMAGES = [Image(name, Path(name)) for name in ("a.png", "sub/b.png")]
CLASSES = ("cat", "1", "dog")


def indices(text: str) -> list[int]:
    return [each.label for each in match(text, IMAGES, CLASSES)]


def test_a_label_is_a_name_or_else_an_index() -> None:
    assert indices("file,label\na.png,dog\nsub/b.png,0\n") == [2, 0]


def test_a_name_goes_before_an_index() -> None:
    assert indices("file,label\na.png,1\nsub/b.png,2\n") == [1, 2]


def test_the_order_of_the_rows_does_not_matter_and_empty_lines_are_skipped() -> None:
    assert indices("file,label\r\n\r\nsub/b.png,cat\r\na.png,dog\r\n") == [2, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begin with the header"),
        ("name,class\na.png,cat\n", "begin with the header"),
        ("file,label\na.png\n", "line 2"),
        ("file,label\na.png,cat,dog\n", "line 2"),
        ("file,label\na.png,cat\na.png,cat\n", r"line 3 of the labels names 'a\.png' a second time"),
        ("file,label\na.png,cow\n", "'cow', which is neither a class name nor an index below 3"),
        ("file,label\na.png,3\n", "neither a class name nor an index"),
        ("file,label\na.png,-1\n", "neither a class name nor an index"),
        ("file,label\na.png,99999999999999999999\n", "neither a class name nor an index"),
        ("file,label\na.png,²\n", "neither a class name nor an index"),
        ("file,label\na.png,cat\n", "1 of 2 evaluation images have no label"),
        ("file,label\na.png,cat\nsub/b.png,cat\nc.png,cat\n", r"1 labels name no evaluation image, the first 'c\.png'"),
        ('file,label\na.png,"' + "x" * 200_000 + '"\n', "is not CSV"),
    ],
)
def test_wrong_labels_are_refused(text: str, said: str) -> None:
    with pytest.raises(MalformedDataset, match=said):
        match(text, IMAGES, CLASSES)


def test_class_names_are_one_a_line() -> None:
    assert parse_classes("cat\n\n dog \n") == ("cat", "dog")


@pytest.mark.parametrize("names", [(), ("cat",), ("cat", "dog", "cat")])
def test_classes_that_cannot_be_told_apart_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(MalformedDataset):
        check_classes(names)
