"""Picture files to upright 8-bit RGB pictures.

A path or bytes go in, a PIL picture comes out, or an `InputError` that names the file. It knows no
model.

While a picture is read, there are at most two copies of it with 4 bytes a pixel each, besides what
its decoder needs; what has more than twice `Image.MAX_IMAGE_PIXELS` is not decoded.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.heic import is_heic, open_heic
from mobile_runtime.pictures.rgb import WHITE, Colour, convert, load_levels
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
_LONGEST_SIDE = 1_000_000  # pixels: scaling takes memory by the length of a side


def load_image(source: str | Path | bytes, background: Colour | None = WHITE) -> Image.Image:
    """Read a picture upright (EXIF orientation applied) as RGB; of an animation, the first frame.

    `source` is a path, or the content of a file. What is transparent shows the background; None
    leaves transparency out, as the published code does. HEIC needs pillow-heif. Raises
    `InputError`, which names the file, if it is not a readable picture.
    """
    if isinstance(source, bytes):
        name = "the picture in the data URI"
    else:
        check_file(Path(source), "a picture file")
        name = str(source)
    with _reading(name):
        return convert(_read(source, name), name, background)


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


def _read(source: str | Path | bytes, name: str) -> Image.Image:
    data = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return _decode(Image.open(data, formats=FORMATS), name)
    except UnidentifiedImageError:
        if not is_heic(_content(source, 12)):
            raise
        return _decode(open_heic(data, name), name)
    except ValueError:  # of a PNG with a profile or text beyond Pillow's limits, for one
        content = _content(source)
        if not content.startswith(_PNG):
            raise
        return _decode(Image.open(io.BytesIO(_without_texts(content)), formats=FORMATS), name)


def _content(source: str | Path | bytes, length: int = -1) -> bytes:
    """The first bytes of a file, or all."""
    if isinstance(source, bytes):
        return source if length < 0 else source[:length]
    with open(source, "rb") as file:
        return file.read(length)


def _decode(opened: ImageFile.ImageFile, name: str) -> Image.Image:
    with opened as image:
        _check_size(image, name)
        load_levels(image)
        return upright(image)


def _check_size(image: Image.Image, name: str) -> None:
    """Before it is decoded."""
    if max(image.size) > _LONGEST_SIDE:
        raise InputError(
            f"{name} is {image.width}×{image.height} pixels; give one with sides of at most "
            f"{_LONGEST_SIDE:,}."
        )
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"{image.width}×{image.height}")


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


def to_rgb(
    image: Image.Image, name: str = "the given picture", background: Colour | None = WHITE
) -> Image.Image:
    """Return the picture upright as 8-bit RGB. Raises `InputError`, which calls it `name`, if that
    fails.

    A picture that was read from a file and not changed is turned as its EXIF orientation says, like
    the file itself. Transparency and levels are those of `load_image`.
    """
    with _reading(name):
        _check_size(image, name)
        load_levels(image)
        turned = upright(image) if isinstance(image, ImageFile.ImageFile) else image
        return convert(turned, name, background)
