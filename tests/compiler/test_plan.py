"""Which variants are made for which boards."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet_protocol.board import Board, parse
from model_compiler import boards
from model_compiler.errors import UnknownBoard, UnwantedVariant
from model_compiler.stages.plan import plan


def board(
    name: str = "one", *, runtime: str = "onnxruntime", precisions: str = '"int8", "fp32"', version: str = "1.17"
) -> Board:
    _, content = boards.load("generic-x86_64", Path())
    text = content.decode().replace("generic-x86_64", name).replace('"onnxruntime"', f'"{runtime}"')
    return parse(text.replace('"int8", "fp32"', precisions).replace('"1.17"', f'"{version}"'))


def test_variants_come_in_the_boards_order_of_preference_not_the_recipes() -> None:
    assert [build.variant for build in plan(["fp32", "int8"], [board()])] == ["ort-int8", "ort-fp32"]


def test_a_variant_goes_only_to_the_boards_that_run_it() -> None:
    int8, fp32 = plan(["int8", "fp32"], [board("one"), board("two", precisions='"fp32"')])
    assert [each.name for each in int8.boards] == ["one"]
    assert [each.name for each in fp32.boards] == ["one", "two"]


def test_a_variant_needs_the_newest_of_its_boards_minimum_versions() -> None:
    (build,) = plan(["fp32"], [board("one", version="1.9"), board("two", version="1.17")])
    assert build.requirement.min_version == "1.17"


def test_a_precision_that_no_board_runs_is_refused() -> None:
    with pytest.raises(UnwantedVariant, match="no board of the recipe runs fp16"):
        plan(["fp16"], [board()])


def test_a_runtime_without_a_target_is_refused() -> None:
    with pytest.raises(UnwantedVariant, match="not for null"):
        plan(["fp32"], [board(runtime="null")])


def test_boards_of_several_runtimes_get_a_variant_each() -> None:
    boards_ = [board("one"), board("two", runtime="openvino"), board("three", runtime="litert")]
    assert [build.variant for build in plan(["int8"], boards_)] == ["ort-int8", "ov-int8", "tfl-int8"]


def test_every_shipped_board_is_found_by_its_name() -> None:
    names = boards.shipped()
    assert {"generic-x86_64", "raspberry-pi-5"} <= set(names)
    assert [boards.load(name, Path())[0].name for name in names] == names


def test_a_board_may_be_a_file_beside_the_recipe(tmp_path: Path) -> None:
    _, content = boards.load("generic-x86_64", Path())
    (tmp_path / "mine.toml").write_bytes(content.replace(b"generic-x86_64", b"mine"))
    assert boards.load("mine.toml", tmp_path)[0].name == "mine"


def test_a_board_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownBoard, match="cannot be read"):
        boards.load("absent.toml", tmp_path)
