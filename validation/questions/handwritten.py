"""Pictures of handwritten numbers, put together from two packaged collections of digits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from validation.questions.canvas import (
    Size,
    draw_ground,
    finish,
    in_view,
    log_uniform,
    overlay,
    random_inks,
)
from validation.questions.picture import Glyph, Picture

Collection = Literal["opencv", "sklearn"]
COLLECTIONS: tuple[Collection, ...] = ("opencv", "sklearn")
Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images (n, side, side), labels (n,)
_SIDES = (26.0, 48.0)  # of a digit, in pixels of a view
_HELD_OUT = 5  # every fifth image of a collection is kept for evaluation
_FILE = Path(__file__).parent / "data" / "digits.npz"


@lru_cache(maxsize=4)
def load_digits(collection: Collection, held_out: bool) -> Digits:
    """Images (n, side, side), white on black, and their digits (n,), of one half of the split."""
    with np.load(_FILE) as arrays:
        images, labels = arrays[f"{collection}_images"], arrays[f"{collection}_labels"]
    chosen = (np.arange(len(labels)) % _HELD_OUT == _HELD_OUT - 1) == held_out
    return images[chosen], labels[chosen]


def draw_number(
    rng: np.random.Generator, length: int, size: Size, collection: Collection, held_out: bool
) -> Picture:
    """`length` digits side by side, each turned, sheared and shifted a little."""
    room = min((size[0] - 4) / (length + 0.1), size[1] - 4)
    side = min(room, log_uniform(rng, *in_view(size, *_SIDES)))
    pitch = side * rng.uniform(0.8, 1.0)
    extent = pitch * (length - 1) + side
    x = rng.uniform(2, max(2.0, size[0] - 2 - extent)) + side / 2
    y = rng.uniform(side / 2 + 2, max(side / 2 + 2, size[1] - 2 - side / 2))
    places = [(x + n * pitch, y + rng.uniform(-0.05, 0.05) * side) for n in range(length)]
    return _draw_digits(rng, places, side, size, load_digits(collection, held_out))


def draw_digit_page(rng: np.random.Generator, size: Size, collection: Collection) -> Picture:
    """Digits all over the picture, in rows: for learning them, not for questions."""
    side = log_uniform(rng, *in_view(size, *_SIDES))
    pitch = (side * rng.uniform(0.85, 1.1), side * rng.uniform(1.0, 1.2))
    start = rng.uniform(-0.5, 0.5, 2) * pitch
    places = [
        (float(x), float(y))
        for y in np.arange(start[1], size[1] + side / 2, pitch[1])
        for x in np.arange(start[0], size[0] + side / 2, pitch[0])
    ]
    return _draw_digits(rng, places, side, size, load_digits(collection, held_out=False))


def _draw_digits(
    rng: np.random.Generator,
    places: Sequence[tuple[float, float]],
    side: float,
    size: Size,
    digits: Digits,
) -> Picture:
    """A random digit, `side` pixels wide, around each of `places`."""
    images, labels = digits
    mask, glyphs = Image.new("L", size), []
    for x, y in places:
        index = int(rng.integers(len(labels)))
        tile, shift = _turn(rng, images[index], side), 0.75 * side
        corner = (round(x - shift), round(y - shift))
        box = (*corner, corner[0] + tile.width, corner[1] + tile.height)
        mask.paste(ImageChops.lighter(mask.crop(box), tile), corner)
        if 0 <= x < size[0] and 0 <= y < size[1]:
            glyphs.append(Glyph(str(labels[index]), x / size[0], y / size[1]))
    inks = random_inks(rng)
    painted = overlay(draw_ground(rng, size, inks.ground), mask, inks.text)
    return Picture(finish(rng, painted), tuple(glyphs), ink=mask, handwritten=True, em=side)


def _turn(rng: np.random.Generator, image: NDArray[np.uint8], side: float) -> Image.Image:
    """The digit turned, sheared and stretched a little, in the middle of a tile 1.5 times as wide
    as its `side`."""
    turn, shear = rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)
    stretch = np.exp(rng.uniform(-0.1, 0.1, 2))
    forward = np.array([[1, shear], [0, 1]]) @ np.array(
        [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    )
    # Pixel of the tile -> pixel of the digit's image, as Pillow wants it.
    inverse = np.linalg.inv(forward * stretch * side / len(image))
    image = np.pad(image, len(image) // 8)  # strokes that touch the border are not cut off
    shift = len(image) / 2 - inverse @ np.full(2, 0.75 * side)
    data = (*inverse[0], shift[0], *inverse[1], shift[1])
    tile = (round(1.5 * side), round(1.5 * side))
    return Image.fromarray(image).transform(
        tile, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC
    )
