"""Labelled photographs for nothing: rendered text lines, upright or turned by 180 degrees.

The model (PP-LCNet text-line orientation) is a production model; only the pictures are drawn here. ``night`` frames are light on
dark: they occur in front of the cameras, but not in the data of the author of version 2.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABELS: Final = ("upright", "rotated")
_WORDS: Final = (
    "invoice total customer address delivery order number street receipt amount signature contract agreement payment account "
    "reference balance quantity warehouse shipment parcel weight fragile handle caution keep dry this side first class priority"
).split()
_FONT_SIZES: Final = (18, 24, 32, 40)


def line(seed: int, *, night: bool = False) -> tuple[Image.Image, int]:
    """One text line, and 1 where it is upside down. The same seed gives the same picture."""
    rng = np.random.default_rng(seed)
    font = ImageFont.load_default(size=float(rng.choice(_FONT_SIZES)))
    text = " ".join(rng.choice(_WORDS, size=int(rng.integers(1, 4))))
    paper, ink = _colours(rng, night=night)
    _, _, right, bottom = font.getbbox(text)
    size = (int(right) + int(rng.integers(4, 20)), int(bottom) + int(rng.integers(4, 16)))
    picture = Image.new("RGB", size, paper)
    ImageDraw.Draw(picture).text((int(rng.integers(1, 6)), int(rng.integers(0, 4))), text, fill=ink, font=font)
    label = seed % 2
    return _noisy(picture.rotate(180) if label else picture, rng, night=night), label


def write_labelled(folder: Path, seeds: range) -> Path:
    """Write ``folder/*.png`` and ``folder.csv`` (file, label); returns the CSV's path."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder.with_suffix(".csv")
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "label"))
        for seed in seeds:
            picture, label = line(seed)
            picture.save(folder / f"{seed:06d}.png")
            rows.writerow((f"{seed:06d}.png", LABELS[label]))
    return table


def write_frames(folder: Path, seeds: range, *, night_every: int) -> None:
    """What a camera sees: ``folder/*.png``, every ``night_every``-th frame at night (0: never)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        night = bool(night_every) and number % night_every == night_every - 1
        line(seed, night=night)[0].save(folder / f"{seed:06d}.png")


def _colours(rng: np.random.Generator, *, night: bool) -> Iterator[tuple[int, ...]]:
    dark, light = rng.integers(0, 60, 3), rng.integers(150, 256, 3)
    order = (dark, light) if night else (light, dark)
    return (tuple(int(value) for value in colour) for colour in order)


def _noisy(picture: Image.Image, rng: np.random.Generator, *, night: bool) -> Image.Image:
    pixels = np.asarray(picture, np.float32)
    pixels = pixels + rng.standard_normal((*pixels.shape[:2], 1)) * (0 if night else rng.choice((0, 8, 25)))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
