"""Picture files to upright 8-bit RGB pictures.

A path or bytes go in, a PIL picture comes out, or an `InputError` that names the file. It knows no
model.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.sources import check_file

# Only formats that Pillow decodes itself: EPS, for one, would start another program.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"),
    *("JPEG2000", "PPM", "TGA", "ICO", "DDS", "QOI", "SGI"),
)
_READ_ERRORS = (OSError, ValueError, RuntimeError, SyntaxError, EOFError, struct.error, zlib.error)
_PNG = b"\x89PNG\r\n\x1a\n"
# Profiles and texts, which Pillow reads only up to a size, and which a picture does without.
_LEFT_OUT = (b"iCCP", b"zTXt", b"tEXt", b"iTXt")
# What turns a picture of an EXIF orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ROWS = 256  # of a picture of floats or 16 bits that are scaled together


def load_image(source: str | Path | bytes) -> Image.Image:
    """Read a picture upright (EXIF orientation applied) as RGB; of an animation, the first frame.

    `source` is a path, or the content of a file. Alpha is dropped and palettes are expanded as
    `convert("RGB")` does. 16-bit grey is scaled to 8 bits; `convert` would clip it to white. Raises
    `InputError`, which names the file, if it is not a readable picture.
    """
    if isinstance(source, bytes):
        name = "the picture in the data URI"
    else:
        check_file(Path(source), "a picture file")
        name = str(source)
    with _reading(name):
        return _convert(_read(source), name)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns Pillow's errors into an `InputError`, and leaves its warnings out: it warns of damage
    that costs nothing, and from half the size that it refuses, which phones exceed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has too many pixels ({error}); scale it down.") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name} is not a picture in a known format ({', '.join(FORMATS)}); convert it."
        ) from error
    except (*_READ_ERRORS, AssertionError) as error:
        if "closed" in str(error) or isinstance(error, AssertionError):  # Pillow's: no file
            raise InputError(
                f"{name} was closed before it was read; give it while its file is open, or call "
                "its load() before."
            ) from error
        raise InputError(f"{name} is damaged or incomplete ({error}); get it again.") from error


def _read(source: str | Path | bytes) -> Image.Image:
    data = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return _open(data)
    except ValueError:  # of a PNG with a profile or text beyond Pillow's limits, for one
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        if not content.startswith(_PNG):
            raise
        return _open(io.BytesIO(_without_texts(content)))


def _open(data: str | Path | io.BytesIO) -> Image.Image:
    with Image.open(data, formats=FORMATS) as image:
        image.load()
        return upright(image)


def _without_texts(png: bytes) -> bytes:
    """The same PNG file without the chunks `_LEFT_OUT`, of which XMP is one."""
    parts, begin = [png[: len(_PNG)]], len(_PNG)
    while begin < len(png):
        length = int.from_bytes(png[begin : begin + 4], "big")
        end = begin + 12 + length
        if png[begin + 4 : begin + 8] not in _LEFT_OUT:
            parts.append(png[begin:end])
        begin = end
    return b"".join(parts)


def upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; one that has none, or a damaged one, is as it
    should be."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's parsers raise whatever the damage leads to
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, name: str = "the given picture") -> Image.Image:
    """Return the picture upright as 8-bit RGB. Raises `InputError`, which calls it `name`, if that
    fails.

    A picture that was read from a file and not changed is turned as its EXIF orientation says, like
    the file itself. Integers of 16 bits (modes I;16 and I) are divided by 257. Floats count as 0…1
    if none is above 1, as 0…255 otherwise. Pillow converts the other modes.
    """
    with _reading(name):
        image.load()
        return _convert(upright(image) if isinstance(image, ImageFile.ImageFile) else image, name)


def _convert(image: Image.Image, name: str) -> Image.Image:
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
    levels = np.asarray(image)
    grey = np.empty(levels.shape, np.uint8)
    for begin in range(0, len(levels), _ROWS):
        some = levels[begin : begin + _ROWS].astype(np.float64)
        if not np.all((some >= 0) & (some <= white)):  # NaN fails too
            raise InputError(
                f"{name} has values outside 0…{white} (mode {image.mode}); convert it to 8-bit RGB."
            )
        grey[begin : begin + _ROWS] = np.rint(some * (255 / white))
    return Image.fromarray(grey).convert("RGB")
