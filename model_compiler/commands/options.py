"""Options that several commands share, worded once."""

from __future__ import annotations

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
