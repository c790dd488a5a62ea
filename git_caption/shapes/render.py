"""Scene → picture: a varied background and the objects painted on it, all decided by one seed."""

from __future__ import annotations

import io
import math
import random

import numpy as np
from PIL import Image, ImageDraw

from git_caption.shapes.scenes import PLACES, Object, Scene

SIDE = 96  # pixels of the finished picture
_SCALE = 3  # painted three times as large, then reduced: smooth edges
_CELL = SIDE // 3
_RADIUS = {"small": (6.0, 7.5), "large": (11.5, 13.5)}  # pixels
_RGB = {
    "red": (215, 30, 35),
    "green": (35, 170, 55),
    "blue": (40, 75, 225),
    "yellow": (245, 225, 45),
    "purple": (150, 45, 185),
    "orange": (245, 135, 25),
    "white": (245, 245, 245),
}
_JPEG_QUALITY = 90


def render(scene: Scene, seed: int | str) -> Image.Image:
    """The scene as an RGB picture of 96 × 96 pixels; the same seed paints the same picture."""
    rng = random.Random(f"shapes-picture-{seed}")
    canvas = _background(rng).resize((SIDE * _SCALE, SIDE * _SCALE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for item in scene.objects:
        _paint(draw, item, rng)
    return canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def to_jpeg(picture: Image.Image) -> bytes:
    """The picture as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _background(rng: random.Random) -> Image.Image:
    """Flat, gradient, striped or cloudy; always dull and dark enough for every object colour to stand out."""
    first, second = _dull(rng), _dull(rng)
    kind = rng.choice(("flat", "gradient", "stripes", "clouds"))
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    angle = rng.uniform(0, math.pi)
    along = columns * math.cos(angle) + rows * math.sin(angle)
    if kind == "flat":
        blend = np.zeros((SIDE, SIDE))
    elif kind == "gradient":
        blend = (along - along.min()) / (along.max() - along.min())
    elif kind == "stripes":
        blend = 0.5 + 0.5 * np.sin(along * rng.uniform(20, 50))
    else:
        coarse = np.random.default_rng(rng.getrandbits(32)).random((6, 6)).astype(np.float32)
        blend = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 1)
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(0, 5), (SIDE, SIDE, 1))
    pixels = first + (second - first) * blend[:, :, None] + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _dull(rng: random.Random) -> np.ndarray:
    grey = rng.uniform(25, 135)
    return np.array([grey + rng.uniform(-18, 18) for _ in range(3)])


def _paint(draw: ImageDraw.ImageDraw, item: Object, rng: random.Random) -> None:
    row, column = divmod(PLACES.index(item.place), 3)
    radius = rng.uniform(*_RADIUS[item.size])
    slack = _CELL / 2 - radius - 1
    x = (column + 0.5) * _CELL + rng.uniform(-slack, slack) * 0.6
    y = (row + 0.5) * _CELL + rng.uniform(-slack, slack) * 0.6
    color = tuple(max(0, min(255, value + rng.randint(-10, 10))) for value in _RGB[item.color])
    turn = rng.uniform(-0.2, 0.2)  # radians
    points = [
        ((x + radius * u) * _SCALE, (y + radius * v) * _SCALE) for u, v in (_rotate(p, turn) for p in _outline(item))
    ]
    draw.polygon(points, fill=color)


def _outline(item: Object) -> list[tuple[float, float]]:
    """Corner points of the shape in a circle of radius 1, y pointing down."""
    if item.shape == "circle":
        return _corners([1.0] * 48, 0.0)
    if item.shape == "square":
        return _corners([1.0] * 4, math.pi / 4)
    if item.shape == "triangle":
        return _corners([1.0] * 3, -math.pi / 2)
    if item.shape == "star":
        return _corners([1.0, 0.4] * 5, -math.pi / 2)
    arm = 0.33
    quarter = [(arm, -arm), (arm, -1.0), (-arm, -1.0)]
    return [_rotate(point, -turn * math.pi / 2) for turn in range(4) for point in quarter]


def _corners(radii: list[float], start: float) -> list[tuple[float, float]]:
    step = 2 * math.pi / len(radii)
    return [(r * math.cos(start + i * step), r * math.sin(start + i * step)) for i, r in enumerate(radii)]


def _rotate(point: tuple[float, float], angle: float) -> tuple[float, float]:
    u, v = point
    return u * math.cos(angle) - v * math.sin(angle), u * math.sin(angle) + v * math.cos(angle)
