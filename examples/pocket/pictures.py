"""`python -m examples.pocket.pictures`: draw the pictures of examples/pictures again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from validation.questions.canvas import Inks, overlay
from validation.questions.handwritten import draw_number
from validation.questions.picture import ShapeGroup
from validation.questions.printed import draw_line
from validation.questions.shapes import draw_shapes

FOLDER = Path(__file__).parents[1] / "pictures"
_SIGN = Inks(np.full(3, 250, np.float32), (np.array([20, 110, 60], np.float32),) * 2)


def draw_sign() -> Image.Image:
    """White on green, as over a street."""
    size = (240, 110)
    mask, _ = draw_line("MUSEUM", 1, 28, size, (120, 55), 0.0)
    ground = np.broadcast_to(_SIGN.ground[0], (size[1], size[0], 3))
    return Image.fromarray(np.rint(overlay(ground, mask, _SIGN.text)).astype(np.uint8))


def main() -> int:
    """Write the pictures; prints what each shows."""
    rng = np.random.default_rng(1)
    number = draw_number(rng, 3, (240, 110), "opencv", held_out=True)
    shapes = draw_shapes(
        rng, (ShapeGroup(3, "red", "star"), ShapeGroup(2, "blue", "ring")), (190, 140)
    )
    FOLDER.mkdir(exist_ok=True)
    for name, image, shown in (
        ("sign.png", draw_sign(), "MUSEUM"),
        ("number.png", number.image, number.text),
        ("shapes.png", shapes.image, " and ".join(map(str, shapes.shapes))),
    ):
        image.save(FOLDER / name)
        print(f"{name}: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
