"""Drawn photos of the synthetic sample (drawings.yaml), on a white-bordered canvas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml
from PIL import Image, ImageColor, ImageDraw, ImageEnhance

DRAWINGS = Path(__file__).with_name("drawings.yaml")
# the challenge's photos have 500 pixels; drawing and storing 256 takes a quarter of the time, and training reads 48
SIDE = 256
OVERSAMPLING = 2  # drawn this many times larger, then averaged, for smooth edges
INKS = {"k": "#1b1b1e", "w": "#fdfdfd", "g": "#9a9aa2"}

# what a product's photo shows: its class, a class that looks alike, any class, or the shop's placeholder
OWN, LOOKALIKE, MISLEADING, PLACEHOLDER = 0.80, 0.11, 0.05, 0.04
ODD_COLOURS, COLOURED_BACKDROP, CLUTTER, DIM_LIGHT = 0.06, 0.25, 0.25, 0.3

Colour = tuple[int, ...]


@cache
def _drawings() -> dict[int | str, Any]:
    return yaml.safe_load(DRAWINGS.read_text(encoding="utf-8"))


def draw_photo(code: int, random: Random) -> Image.Image:
    """Return a photo of a product of this class: SIDE x SIDE pixels, RGB, a white border of at least 2 %."""
    size = SIDE * OVERSAMPLING
    photo = Image.new("RGB", (size, size), "white")
    left, top, right, bottom = (round(size * random.uniform(0.02, 0.2)) for _ in range(4))
    scene = _scene(code, (size - left - right, size - top - bottom), random)
    photo.paste(scene, (left, top))
    return photo.reduce(OVERSAMPLING)


def _scene(code: int, size: tuple[int, int], random: Random) -> Image.Image:
    """Draw the product on its backdrop, without the photo's border."""
    scene = Image.new("RGB", size, _backdrop(random))
    if random.random() < CLUTTER:
        for _ in range(random.randint(2, 5)):
            _scribble(scene, random)
    drawing = _drawings()[_subject(code, random)]
    Pen(scene, _colours(drawing["palettes"], random), random).draw(drawing["steps"])
    if random.random() < DIM_LIGHT:
        scene = ImageEnhance.Brightness(scene).enhance(random.uniform(0.75, 1.0))
    return scene


def _subject(code: int, random: Random) -> int | str:
    others = [other for other in _drawings() if other not in (code, "placeholder")]
    choices = (code, _drawings()[code]["lookalike"], random.choice(others), "placeholder")
    return random.choices(choices, (OWN, LOOKALIKE, MISLEADING, PLACEHOLDER))[0]


def _backdrop(random: Random) -> Colour:
    if random.random() < COLOURED_BACKDROP:
        return tuple(random.randint(190, 250) for _ in range(3))
    return (255, 255, 255)


def _scribble(scene: Image.Image, random: Random) -> None:
    """Draw a small shape of any colour, anywhere."""
    colour = tuple(random.randint(60, 240) for _ in range(3))
    width, height = scene.size
    x, y = random.uniform(0, width), random.uniform(0, height)
    box = (x, y, x + random.uniform(0.04, 0.2) * width, y + random.uniform(0.04, 0.2) * height)
    paint = ImageDraw.Draw(scene)
    random.choice((paint.ellipse, paint.rectangle))(box, fill=colour)


def _colours(palettes: Sequence[Sequence[str]], random: Random) -> dict[str, Colour]:
    """Return the colours of a drawing: a palette of its class, slightly varied, or sometimes any colours."""
    palette: list[Colour] = [ImageColor.getrgb(colour) for colour in random.choice(palettes)]
    if random.random() < ODD_COLOURS:
        palette = [tuple(random.randint(0, 255) for _ in range(3)) for _ in palette]
    varied = [tuple(min(255, max(0, c + random.randint(-22, 22))) for c in colour) for colour in palette]
    return dict(zip("abc", varied, strict=True)) | {ink: ImageColor.getrgb(colour) for ink, colour in INKS.items()}


class Pen:
    """Pen for a square of 100 x 100 units, which is shifted, rotated, scaled and mirrored at random in the scene."""

    def __init__(self, scene: Image.Image, inks: dict[str, Colour], random: Random) -> None:
        self._paint, self._inks = ImageDraw.Draw(scene), inks
        width, height = scene.size
        unit = min(width, height) / 100 * random.uniform(0.78, 0.96)
        mirror = random.choice((-1, 1))
        self._scale = (mirror * unit * random.uniform(0.9, 1.1), unit * random.uniform(0.9, 1.1))
        angle = math.radians(random.gauss(0, 6))
        self._cos, self._sin = math.cos(angle), math.sin(angle)
        margins = [(extent - 100 * unit) / 2 for extent in (width, height)]
        self._centre = [
            extent / 2 + random.uniform(-0.8, 0.8) * margin
            for extent, margin in zip((width, height), margins, strict=True)
        ]

    def draw(self, steps: Sequence[Sequence[Any]]) -> None:
        """Draw the steps, each [shape, colour, numbers...], as drawings.yaml explains."""
        for shape, colour, *numbers in steps:
            fill = self._inks[colour] if colour in self._inks else ImageColor.getrgb(colour)
            if shape == "line":
                width = max(1, round(numbers[0] * abs(self._scale[0])))
                self._paint.line(self._to_scene(numbers[1:]), fill=fill, width=width, joint="curve")
            else:
                self._paint.polygon(self._to_scene(_outline(shape, numbers)), fill=fill)

    def _to_scene(self, points: Sequence[float]) -> list[tuple[float, float]]:
        """Map x y x y ... in the square to points in the scene."""
        across = [(x - 50) * self._scale[0] for x in points[0::2]]
        down = [(y - 50) * self._scale[1] for y in points[1::2]]
        return [
            (self._centre[0] + x * self._cos - y * self._sin, self._centre[1] + x * self._sin + y * self._cos)
            for x, y in zip(across, down, strict=True)
        ]


def _outline(shape: str, numbers: Sequence[float]) -> Sequence[float]:
    """Return the corners of a shape, x y x y ..."""
    if shape == "poly":
        return numbers
    x0, y0, x1, y1 = numbers
    if shape == "box":
        return (x0, y0, x1, y0, x1, y1, x0, y1)
    turns = [math.tau * step / 32 for step in range(32)]
    middle, radius = ((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) / 2, (y1 - y0) / 2)
    return [middle[i] + radius[i] * axis(turn) for turn in turns for i, axis in enumerate((math.cos, math.sin))]
