"""Frames of short videos: a shape that moves, digits that follow one another."""

from __future__ import annotations

import numpy as np

from validation.questions.canvas import (
    Size,
    draw_ground,
    finish,
    in_view,
    log_uniform,
    overlay,
)
from validation.questions.picture import Mark, Picture, ShapeGroup
from validation.questions.printed import draw_text
from validation.questions.shapes import COLOURS, RADII, SHAPES, contrasting_ground, shape_mask

# Name -> unit step, y downwards.
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
MIN_STEP = 5  # between frames, in temporal ids
MAX_TIME = 60  # temporal ids are tenths of a second: a clip of up to six seconds


def random_times(rng: np.random.Generator, frames: int) -> tuple[int, ...]:
    """Temporal ids of `frames` frames at an even pace, from any start."""
    step = int(rng.integers(MIN_STEP, max(MIN_STEP, MAX_TIME // (frames - 1) // 2) + 1))
    start = int(rng.integers(0, MAX_TIME - step * (frames - 1) + 1))
    return tuple(start + n * step for n in range(frames))


def draw_motion(rng: np.random.Generator, frames: int, direction: str, size: Size) -> list[Picture]:
    """A shape that crosses a good part of the picture in `direction`."""
    colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
    ink = np.array(COLOURS[colour], np.float32)
    ground = draw_ground(rng, size, contrasting_ground(rng, [ink]))
    radius = log_uniform(rng, *in_view(size, *RADII))
    travel = rng.uniform(0.35, 0.9)
    slant = rng.uniform(-0.12, 0.12)
    step_x, step_y = DIRECTIONS[direction]
    room = (size[0] - 2 * radius - 4, size[1] - 2 * radius - 4)
    along = room[0] if step_x else room[1]
    begin = rng.uniform(0, 1 - travel)
    offset = rng.uniform(0.15, 0.85) * (room[1] if step_x else room[0])
    pictures = []
    for n in range(frames):
        way = begin + travel * n / (frames - 1)
        way = way if step_x + step_y > 0 else 1 - way
        across = offset + slant * along * (n / (frames - 1) - 0.5)
        point = (way * along, across) if step_x else (across, way * along)
        centre = tuple(
            float(np.clip(p, 0, side)) + radius + 2 for p, side in zip(point, room, strict=True)
        )
        mask = shape_mask(shape, size, (centre[0], centre[1]), radius, rng)
        image = finish(rng, overlay(ground, mask, ink), wear=0.5)
        mark = Mark(shape, colour, centre[0] / size[0], centre[1] / size[1])
        group = ShapeGroup(1, colour, shape)
        pictures.append(Picture(image, shapes=(group,), marks=(mark,), ink=mask))
    return pictures


def draw_digits(
    rng: np.random.Generator, digits: str, size: Size, em: tuple[float, float]
) -> list[Picture]:
    """One printed digit per frame, its font between `em` pixels."""
    pictures: list[Picture] = []
    while len(pictures) < len(digits):
        picture = draw_text(rng, digits[len(pictures)], size, em)
        pictures += [] if picture is None else [picture]
    return pictures
