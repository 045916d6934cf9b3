"""Labelled pictures, drawn: small shapes for the tiny network, lines of text for the production model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SHAPES = ("up", "down", "square")
ORIENTATIONS = ("upright", "rotated")
WORDS = (
    "gate",
    "Model",
    "7.5 kg",
    "fleet",
    "(beta)",
    "over",
    "limit",
    "The",
    "quick",
    "Brown",
    "fox;",
    "camera",
    "edge",
    "42",
)

Drawn = tuple[Image.Image, int]


def shape(seed: int) -> Drawn:
    """A light triangle (up or down) or square on a dark noisy ground, 40 x 32 pixels; its class index in SHAPES."""
    random = np.random.default_rng(seed)
    label = seed % len(SHAPES)
    picture = Image.new("RGB", (40, 32), tuple(int(v) for v in random.integers(0, 90, 3)))
    side, x, y = int(random.integers(12, 20)), int(random.integers(1, 18)), int(random.integers(1, 10))
    box = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
    up, down = [(x + side // 2, y), box[2], box[3]], [box[0], box[1], (x + side // 2, y + side)]
    ImageDraw.Draw(picture).polygon((up, down, box)[label], fill=tuple(int(v) for v in random.integers(140, 256, 3)))
    return _noisy(picture, random, 12.0), label


def text_line(seed: int) -> Drawn:
    """A rendered line of text, upright or turned by 180 degrees; its class index in ORIENTATIONS."""
    random = np.random.default_rng(seed)
    font = ImageFont.load_default(size=int(random.choice([18, 24, 32, 40])))
    text = " ".join(random.choice(WORDS, int(random.integers(1, 4))))
    _, _, right, bottom = font.getbbox(text)
    size = int(right) + int(random.integers(6, 20)), int(bottom) + int(random.integers(6, 16))
    picture = Image.new("RGB", size, tuple(int(v) for v in random.integers(120, 256, 3)))
    ImageDraw.Draw(picture).text((3, 2), text, fill=tuple(int(v) for v in random.integers(0, 110, 3)), font=font)
    noisy = _noisy(picture, random, float(random.choice([0.0, 8.0, 25.0])))
    return (noisy.rotate(180) if seed % 2 else noisy), seed % 2


def save_all(draw: Callable[[int], Drawn], seeds: Iterable[int], folder: Path) -> dict[str, int]:
    """Draw one PNG per seed into ``folder``; file name to class index."""
    folder.mkdir(parents=True)
    labels = {}
    for seed in seeds:
        picture, labels[f"{seed:05d}.png"] = draw(seed)
        picture.save(folder / f"{seed:05d}.png")
    return labels


def as_bgr(picture: Image.Image) -> NDArray[np.uint8]:
    """The picture as the frame that a camera would give."""
    return np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])


def _noisy(picture: Image.Image, random: np.random.Generator, sigma: float) -> Image.Image:
    values = np.asarray(picture, np.float32) + sigma * random.standard_normal((picture.height, picture.width, 1))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))
