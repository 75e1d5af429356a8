"""Pictures of shapes: one or two groups of equal shapes that do not touch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from validation.questions.canvas import (
    Colour,
    Size,
    draw_ground,
    finish,
    in_view,
    log_uniform,
    overlay,
    random_colour,
)
from validation.questions.picture import Mark, Picture, ShapeGroup

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (35, 70, 220),
    "yellow": (240, 220, 40),
    "purple": (140, 40, 170),
    "orange": (245, 135, 20),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}
MAX_COUNT = 6
RADII = (11.0, 24.0)  # of a shape, in pixels of a view
_MIN_DISTANCE = 110.0  # between a shape's colour and the ground, in RGB
_THROWS = 60  # attempts to place one shape
_PAGE_COLOURS, _PAGE_MOST = 3, 24
_SCALE = 4  # shapes are drawn this much larger, for smooth edges


def random_groups(rng: np.random.Generator, groups: int) -> tuple[ShapeGroup, ...]:
    """Groups that differ in shape and in colour, at most `MAX_COUNT` shapes, in the order of
    `SHAPES`."""
    shapes = sorted(rng.choice(len(SHAPES), size=groups, replace=False))
    colours = rng.choice(list(COLOURS), size=groups, replace=False)
    most = MAX_COUNT if groups == 1 else MAX_COUNT // 2 + 1
    counts = rng.integers(1, most + 1, size=groups)
    return tuple(
        ShapeGroup(int(count), str(colour), SHAPES[shape])
        for count, colour, shape in zip(counts, colours, shapes, strict=True)
    )


def draw_shapes(rng: np.random.Generator, groups: tuple[ShapeGroup, ...], size: Size) -> Picture:
    """The groups at random places on a ground that their colours stand out from."""
    members = [group for group in groups for _ in range(group.count)]
    radius, places = _places(rng, len(members), size)
    marks = tuple(
        Mark(group.shape, group.colour, x / size[0], y / size[1])
        for group, (x, y) in zip(members, places, strict=True)
    )
    return replace(_draw_marks(rng, marks, radius, size), shapes=groups)


def draw_shape_page(rng: np.random.Generator, size: Size, reach: tuple[float, float]) -> Picture:
    """A picture full of shapes of all kinds in three colours; `reach` bounds their radius."""
    radius = rng.uniform(*reach)
    colours = rng.choice(list(COLOURS), size=_PAGE_COLOURS, replace=False)
    marks = tuple(
        Mark(str(rng.choice(SHAPES)), str(rng.choice(colours)), x / size[0], y / size[1])
        for x, y in _scatter(rng, size, radius, _PAGE_MOST)
    )
    return _draw_marks(rng, marks, radius, size)


def _draw_marks(
    rng: np.random.Generator, marks: tuple[Mark, ...], radius: float, size: Size
) -> Picture:
    """Every mark in its colour on a common ground; equal colours are equal throughout."""
    colours = dict.fromkeys(mark.colour for mark in marks)
    inks = {colour: _jitter(rng, COLOURS[colour]) for colour in colours}
    pixels = draw_ground(rng, size, contrasting_ground(rng, list(inks.values())))
    whole = Image.new("L", size)
    for mark in marks:
        centre = (mark.x * size[0], mark.y * size[1])
        mask = shape_mask(mark.shape, size, centre, radius * rng.uniform(0.8, 1.0), rng)
        pixels = overlay(pixels, mask, inks[mark.colour])
        whole.paste(255, mask=mask)
    return Picture(finish(rng, pixels), marks=marks, ink=whole)


def _jitter(rng: np.random.Generator, colour: tuple[int, int, int]) -> Colour:
    return np.clip(
        np.array(colour, np.float32) + rng.uniform(-14, 14, 3).astype(np.float32), 0, 255
    )


def contrasting_ground(rng: np.random.Generator, inks: list[Colour]) -> tuple[Colour, Colour]:
    """Two near colours for a background that all of `inks` stand out from."""
    while True:
        near = random_colour(rng, (255, 20))
        far = np.clip(near + rng.uniform(-25, 25, 3).astype(np.float32), 0, 255)
        if all(np.linalg.norm(g - ink) >= _MIN_DISTANCE for g in (near, far) for ink in inks):
            return near, far


def _places(
    rng: np.random.Generator, count: int, size: Size
) -> tuple[float, list[tuple[float, float]]]:
    """A common radius and centres at which circles of that radius do not touch."""
    radius = log_uniform(rng, *in_view(size, *RADII))
    while True:
        places = _scatter(rng, size, radius, count)
        if len(places) == count:
            return radius, places
        radius *= 0.9


def _scatter(
    rng: np.random.Generator, size: Size, radius: float, most: int
) -> list[tuple[float, float]]:
    """At most `most` centres at which circles of `radius` do not touch."""
    places: list[tuple[float, float]] = []
    for _ in range(_THROWS):
        x, y = (rng.uniform(radius + 2, side - radius - 2) for side in size)
        if all(math.hypot(x - a, y - b) > 2.1 * radius for a, b in places):
            places.append((x, y))
        if len(places) == most:
            break
    return places


def shape_mask(
    shape: str, size: Size, centre: tuple[float, float], radius: float, rng: np.random.Generator
) -> Image.Image:
    """One shape, turned by up to 12 degrees, as a mask of `size`."""
    side = 2 * _SCALE * max(1, round(radius) + 1)
    tile = Image.new("L", (side, side))
    draw = ImageDraw.Draw(tile)
    reach, middle = radius * _SCALE, side / 2
    box = (middle - reach, middle - reach, middle + reach, middle + reach)
    if shape == "circle":
        draw.ellipse(box, fill=255)
    elif shape == "ring":
        draw.ellipse(box, outline=255, width=max(1, round(reach * 0.38)))
    else:
        turn = math.radians(rng.uniform(-12, 12))
        points = [(math.hypot(*p), math.atan2(p[1], p[0]) + turn) for p in OUTLINES[shape]]
        draw.polygon(
            [
                (middle + reach * r * math.cos(a), middle + reach * r * math.sin(a))
                for r, a in points
            ],
            fill=255,
        )
    small = tile.resize((side // _SCALE, side // _SCALE), Image.Resampling.BOX)
    mask = Image.new("L", size)
    mask.paste(small, (round(centre[0] - small.width / 2), round(centre[1] - small.height / 2)))
    return mask


def _star() -> list[tuple[float, float]]:
    radii = [1.0, 0.42] * 5
    angles = [math.pi * (n / 5 - 0.5) for n in range(10)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


# Corners within the unit circle, y downwards.
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)],
    "triangle": [(0, -0.95), (0.9, 0.7), (-0.9, 0.7)],
    "diamond": [(0, -1), (0.68, 0), (0, 1), (-0.68, 0)],
    "star": _star(),
    "cross": [
        *((-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3)),
        *((0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3)),
    ],
}
