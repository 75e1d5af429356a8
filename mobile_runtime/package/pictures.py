"""Pictures at the edges of a model: a PIL picture or array <-> the array that the program computes.

The program sees a picture as (1, channels, height, width) in float32 with the channels in the order
that the package declares. Scale and bias are operations of the program.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.description import Feature
from mobile_runtime.mlprogram.dtypes import Array

# Mode of PIL that coremltools takes for each colour space, and what an array must be.
_MODES = {
    "RGB": ("RGB", "height × width × 3 of uint8, red first"),
    "BGR": ("RGB", "height × width × 3 of uint8, red first"),
    "grayscale": ("L", "height × width of uint8"),
    "grayscale float16": ("F", "height × width of floats"),
}
_WHITE = 255


def picture_to_array(feature: Feature, value: Any, where: str) -> Array:
    """(1, channels, height, width) of the picture `value`. Raises `InputError`, which begins with
    `where`, for another mode or size than Core ML takes."""
    mode, array_form = _MODES.get(feature.colour or "", ("", ""))
    if not mode:
        raise InputError(
            f"{where}: the picture {feature.name} has a colour space that is not known here; "
            "convert the model with RGB, BGR or grayscale."
        )
    pixels = _pixels(value, mode)
    if pixels is None:
        raise InputError(
            f"{where} got {_in_words(value)} for the picture {feature.name}; give a PIL picture of "
            f"mode {mode}, or an array {array_form}."
        )
    height, width = pixels.shape[:2]
    if not feature.allows((height, width)):
        raise InputError(
            f"{where} got a picture of {height} × {width} (height × width) for {feature.name}, "
            f"which takes {feature.allowed}; scale it."
        )
    if mode == "F":
        pixels = pixels.astype(np.float16)  # as the pixels of such a buffer are stored
    channels = pixels.reshape(height, width, -1)
    if feature.colour == "BGR":
        channels = channels[..., ::-1]
    return np.ascontiguousarray(channels.transpose(2, 0, 1)[None], np.float32)


def _pixels(value: Any, mode: str) -> Array | None:
    """The pixels, (height, width, 3) or (height, width); None if they are not of this mode."""
    if isinstance(value, Image.Image):
        return np.asarray(value) if value.mode == mode else None
    if not isinstance(value, np.ndarray):
        return None
    if mode == "F":
        return value if value.ndim == 2 and value.dtype.kind == "f" else None
    rank_fits = value.ndim == 2 if mode == "L" else value.ndim == 3 and value.shape[2] == 3
    return value if rank_fits and value.dtype == np.uint8 else None


def _in_words(value: Any) -> str:
    if isinstance(value, Image.Image):
        return f"a PIL picture of mode {value.mode}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and type {value.dtype}"
    return f"a value of type {type(value).__name__}"


def array_to_picture(feature: Feature, value: Array, where: str) -> Image.Image:
    """The picture of an output (1, channels, height, width), in the mode that coremltools gives:
    RGBA, L, or F of half precision. Levels are rounded and cut to 0…255."""
    channels = 3 if feature.colour in ("RGB", "BGR") else 1
    if value.ndim != 4 or value.shape[:2] != (1, channels):
        raise InputError(
            f"{where}: the output {feature.name} is declared as a picture ({feature.colour}) and "
            f"has the shape {value.shape}, not 1 × {channels} × height × width: the package is "
            "damaged; export it again."
        )
    if feature.colour == "grayscale float16":
        return Image.fromarray(value[0, 0].astype(np.float16).astype(np.float32))
    levels = np.rint(np.clip(np.nan_to_num(value[0]), 0, _WHITE)).astype(np.uint8)
    if channels == 1:
        return Image.fromarray(levels[0])
    opaque = np.full((1, *levels.shape[1:]), _WHITE, np.uint8)
    colours = levels[::-1] if feature.colour == "BGR" else levels
    return Image.fromarray(
        np.ascontiguousarray(np.concatenate([colours, opaque]).transpose(1, 2, 0))
    )


def fit_picture(feature: Feature, image: Image.Image, resize: bool) -> Image.Image:
    """`image`, which is RGB, in the mode of the input; `resize` stretches it to the input's own
    size if it has another one than the input takes."""
    mode, _ = _MODES.get(feature.colour or "", ("RGB", ""))
    if resize and not feature.allows((image.height, image.width)):
        image = image.resize((feature.shape[1], feature.shape[0]), Image.Resampling.BILINEAR)
    return image if image.mode == mode else image.convert("L").convert(mode)
