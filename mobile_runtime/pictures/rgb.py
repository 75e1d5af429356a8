"""Pictures of any mode to 8-bit RGB: levels are scaled, transparency is composed on a background.

It knows no files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageColor

from mobile_runtime.errors import InputError

Colour = tuple[int, int, int]  # RGB levels
WHITE: Colour = (255, 255, 255)
_LEFT_OUT = "none"
_STRIP_PIXELS = 1 << 20  # of a picture of floats or 16 bits that are scaled together
# A PNG of 2 or 4 bits names its transparent level as stored, and Pillow scales only the pixels.
_LEVEL_STEPS = {"L;2": 85, "L;4": 17}


def parse_background(text: Any) -> Colour | None:
    """The levels of a colour that is named or written as `#rrggbb`; None for "none", with which
    transparency is left out. Raises `InputError` for anything else."""
    if text == _LEFT_OUT:
        return None
    try:
        levels: tuple[int, ...] = ImageColor.getrgb(text) if isinstance(text, str) else ()
    except ValueError:
        levels = ()
    if len(levels) != 3:  # four: the colour is transparent itself
        raise InputError(
            f"The background is {str(text)[:40]!r}; give a colour such as white or #ffffff, or "
            f"{_LEFT_OUT} to leave transparency out."
        )
    return levels[0], levels[1], levels[2]


def load_levels(image: Image.Image) -> None:
    """Decode the picture, if it is not, with its transparent level on the scale of its pixels."""
    tile = getattr(image, "tile", None)
    step = _LEVEL_STEPS.get(tile[0].args) if tile and isinstance(tile[0].args, str) else None
    key = image.info.get("transparency")
    image.load()
    if step is not None and isinstance(key, int):
        image.info["transparency"] = key * step


def convert(image: Image.Image, name: str, background: Colour | None) -> Image.Image:
    """The picture as RGB on the background; None leaves transparency out as `convert("RGB")` does.

    Integers of 16 bits (modes I;16 and I) are divided by 257; `convert` would clip them to white.
    Floats count as 0…1 if none is above 1, as 0…255 otherwise. Raises `InputError`, which calls the
    picture `name`, for values out of these ranges, or a mode that Pillow does not convert.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_levels(image, name, 65535, background)
    if image.mode == "F":
        _, top = image.getextrema()
        assert isinstance(top, float)
        return _from_levels(image, name, 1 if top <= 1 else 255, background)
    try:
        if background is not None and image.has_transparency_data:
            return _compose(image, background)
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise InputError(f"{name} has the mode {image.mode}; convert it to RGB.") from error


def _compose(image: Image.Image, background: Colour) -> Image.Image:
    canvas = Image.new("RGB", image.size, background)
    layer = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    canvas.paste(layer, (0, 0), layer)
    return canvas


def _from_levels(
    image: Image.Image, name: str, white: int, background: Colour | None
) -> Image.Image:
    """Strip by strip: doubles take eight times the memory of what they become."""
    canvas, clear = Image.new("RGB", image.size), image.info.get("transparency")
    rows = max(1, _STRIP_PIXELS // max(1, image.width))
    for begin in range(0, image.height, rows):
        box = (0, begin, image.width, min(begin + rows, image.height))
        levels = np.asarray(image.crop(box)).astype(np.float64)
        if not np.all((levels >= 0) & (levels <= white)):  # NaN fails too
            raise InputError(
                f"{name} has values outside 0…{white} (mode {image.mode}); convert it to 8-bit RGB."
            )
        grey = np.rint(levels * (255 / white)).astype(np.uint8)
        strip = np.repeat(grey[..., None], 3, axis=2)
        if background is not None and isinstance(clear, int):
            strip[levels == clear] = background
        canvas.paste(Image.fromarray(strip), box)
    return canvas
