"""HEIC pictures, which phones take, through pillow-heif: it belongs to an extra."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import ImageFile

from mobile_runtime.errors import InputError

# Of the files that begin with "ftyp": HEVC pictures and their sequences, and any codec's pictures.
_BRANDS = (
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"msf1"),
)


def is_heic(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 12 or more, says that it is HEIC."""
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS


def open_heic(data: str | Path | io.BytesIO, name: str) -> ImageFile.ImageFile:
    """Open the picture without decoding it. It will come out upright, with no orientation left in
    its EXIF: in HEIC the container says how a picture is turned, and decoders do it. Raises
    `InputError`, which calls it `name`, if pillow-heif is not installed."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise InputError(
            f"{name} is a HEIC picture, and pillow-heif, which reads it, is not installed; run "
            "pip install -e '.[heic]', or convert the picture to JPEG."
        ) from error
    opener: Callable[..., ImageFile.ImageFile] = HeifImageFile
    return opener(data)
