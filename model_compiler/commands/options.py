"""Options that several commands share, worded once, and the kinds of values that they take."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

cache_option: Decorator = click.option(
    "--cache",
    "cache_dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where finished packages and records are kept.",
)


def json_option(meaning: str) -> Decorator:
    """``--json``, passed as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=meaning)


def package_argument(name: str) -> Decorator:
    """A package file that exists."""
    return click.argument(name, type=click.Path(exists=True, dir_okay=False, path_type=Path))


class Share(click.ParamType[float]):
    """``1%`` or ``0.01``, as a float between 0 and 1."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        matched = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(%?)", str(value).strip())
        share = float(matched[1]) / (100 if matched[2] else 1) if matched else 2.0
        if share > 1:
            self.fail(f"{value!r} should be a share like 0.01 or a percentage like 1%", param, ctx)
        return share


class Size(click.ParamType[tuple[int, int]]):
    """``224x224``, as width and height in pixels."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        matched = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", str(value))
        if not matched:
            self.fail(f"{value!r} should be width and height in pixels, like 224x224", param, ctx)
        return int(matched[1]), int(matched[2])
