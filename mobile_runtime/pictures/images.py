"""Picture files to upright 8-bit RGB pictures.

A path goes in, a PIL picture comes out, or an `InputError` that names the file. It knows no model.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mobile_runtime.errors import InputError

# Only formats that Pillow decodes itself: EPS, for one, would start another program.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"),
    *("JPEG2000", "PPM", "TGA", "ICO", "DDS", "QOI", "SGI"),
)
_READ_ERRORS = (OSError, ValueError, RuntimeError, SyntaxError, EOFError, struct.error, zlib.error)


def load_image(path: str | Path) -> Image.Image:
    """Read a picture upright (EXIF orientation applied) as RGB; of an animation, the first frame.

    Alpha is dropped and palettes are expanded as `convert("RGB")` does. 16-bit grey is scaled to 8
    bits; `convert` would clip it to white. Raises `InputError`, which names the file, if it is not
    a readable picture.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what}; give a picture file.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; give a picture file.")
    try:
        with warnings.catch_warnings():
            # Pillow warns from half the size that it refuses; a 108-megapixel phone exceeds that.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = _read(path)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} has too many pixels ({error}); scale it down.") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not a picture in a known format ({', '.join(FORMATS)}); convert it."
        ) from error
    except _READ_ERRORS as error:
        raise InputError(f"{path} is damaged or incomplete ({error}); get it again.") from error
    return to_rgb(image, str(path))


def _read(path: Path) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image, name: str = "The picture") -> Image.Image:
    """Return the picture as 8-bit RGB. Raises `InputError`, which calls it `name`, if that fails.

    Integers of 16 bits (modes I;16 and I) are divided by 257. Floats count as 0…1 if none is above
    1, as 0…255 otherwise. Pillow converts the other modes.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_levels(image, name, 65535)
    if image.mode == "F":
        top = float(np.max(np.asarray(image), initial=0))
        return _from_levels(image, name, 1 if top <= 1 else 255)
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InputError(f"{name} has the mode {image.mode}; convert it to RGB.") from error


def _from_levels(image: Image.Image, name: str, white: int) -> Image.Image:
    levels = np.asarray(image).astype(np.float64)
    if not np.all((levels >= 0) & (levels <= white)):  # NaN fails too
        raise InputError(
            f"{name} has values outside 0…{white} (mode {image.mode}); convert it to 8-bit RGB."
        )
    grey = np.rint(levels * (255 / white)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
