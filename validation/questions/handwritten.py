"""Pictures of handwritten numbers, put together from two packaged collections of digits."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from validation.questions.canvas import Size, draw_ground, finish, overlay, random_inks
from validation.questions.picture import Glyph, Picture

Collection = Literal["opencv", "sklearn"]
COLLECTIONS: tuple[Collection, ...] = ("opencv", "sklearn")
_HELD_OUT = 5  # every fifth image of a collection is kept for evaluation
_FILE = Path(__file__).parent / "data" / "digits.npz"


@lru_cache(maxsize=4)
def load_digits(collection: Collection, held_out: bool) -> tuple[NDArray[np.uint8], Labels]:
    """Images (n, side, side), white on black, and their digits (n,), of one half of the split."""
    with np.load(_FILE) as arrays:
        images, labels = arrays[f"{collection}_images"], arrays[f"{collection}_labels"]
    chosen = (np.arange(len(labels)) % _HELD_OUT == _HELD_OUT - 1) == held_out
    return images[chosen], labels[chosen]


Labels = NDArray[np.uint8]


def draw_number(
    rng: np.random.Generator, length: int, size: Size, collection: Collection, held_out: bool
) -> Picture:
    """`length` digits side by side, each turned, sheared and shifted a little."""
    images, labels = load_digits(collection, held_out)
    room = min((size[0] - 4) / (length + 0.1), size[1] - 4)
    side = room * rng.uniform(0.55 if room > 60 else 0.8, 1.0)
    pitch = side * rng.uniform(0.8, 1.0)
    extent = pitch * (length - 1) + side
    x = rng.uniform(2, max(2.0, size[0] - 2 - extent)) + side / 2
    y = rng.uniform(side / 2 + 2, max(side / 2 + 2, size[1] - 2 - side / 2))
    mask = np.zeros(size[::-1], np.uint8)
    glyphs = []
    for n in range(length):
        index = int(rng.integers(len(labels)))
        centre = (x + n * pitch, y + rng.uniform(-0.05, 0.05) * side)
        mask = np.maximum(mask, _place(rng, images[index], size, centre, side))
        glyphs.append(Glyph(str(labels[index]), centre[0] / size[0], centre[1] / size[1]))
    inks = random_inks(rng)
    ink_mask = Image.fromarray(mask)
    painted = overlay(draw_ground(rng, size, inks.ground), ink_mask, inks.text)
    return Picture(finish(rng, painted), tuple(glyphs), ink=ink_mask, handwritten=True, em=side)


def _place(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    size: Size,
    centre: tuple[float, float],
    side: float,
) -> NDArray[np.uint8]:
    """The digit as a mask of `size`, `side` pixels wide around `centre`."""
    turn, shear = rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)
    stretch = np.exp(rng.uniform(-0.1, 0.1, 2))
    forward = np.array([[1, shear], [0, 1]]) @ np.array(
        [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    )
    # Output pixel -> pixel of the digit's image, as Pillow wants it.
    inverse = np.linalg.inv(forward * stretch * side / len(image))
    image = np.pad(image, len(image) // 8)  # strokes that touch the border are not cut off
    middle = len(image) / 2
    shift = np.array([middle, middle]) - inverse @ np.array(centre)
    data = (*inverse[0], shift[0], *inverse[1], shift[1])
    placed = Image.fromarray(image).transform(
        size, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC
    )
    return np.asarray(placed)
