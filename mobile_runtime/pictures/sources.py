"""What a user or a message gives as a picture or video: a path, a file: URL or a data URI.

Nothing is read from the network.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from mobile_runtime.errors import InputError

_LOCAL = re.compile(r"file:(?://(?:localhost)?(?=/)|(?!//))(/.*)", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")  # of one letter: a drive of Windows
_SHOWN = 60  # letters of a name in a sentence


def locate(source: str | Path, folder: Path | None = None) -> Path | bytes:
    """The path that is meant, relative ones from `folder` on, or the bytes of a data URI. Raises
    `InputError` for another URL, or a data URI that is damaged."""
    text = str(source)
    if text[:5].lower() == "data:":
        return _decode(text)
    if (local := _LOCAL.match(text)) is not None:
        return Path(unquote(local[1]))
    if _SCHEME.match(text) is not None:
        raise InputError(
            f"{shown(text)} is not read, since nothing is fetched from other machines; download it "
            "and give the file."
        )
    return Path(source) if folder is None else folder / source


def _decode(uri: str) -> bytes:
    head, comma, data = uri[5:].partition(",")
    try:
        if comma and head.endswith(";base64"):
            return base64.b64decode("".join(unquote(data).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{shown(uri)} is a damaged data URI ({error}); give the file.") from error
    if not comma:
        raise InputError(f"{shown(uri)} is a data URI without data; give the file.")
    return unquote_to_bytes(data)


def check_file(path: Path, wanted: str) -> None:
    """Raises `InputError` unless there is a file that holds something; `wanted` is what to give."""
    try:
        mode_is_file, is_folder = path.is_file(), path.is_dir()
        empty = mode_is_file and path.stat().st_size == 0
        exists = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero in it
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shown(path)} cannot be read ({reason}); give {wanted}.") from error
    if not mode_is_file:
        what = "is a folder" if is_folder else "is no regular file" if exists else "does not exist"
        raise InputError(f"{shown(path)} {what}; give {wanted}.")
    if empty:
        raise InputError(f"{path} is empty; give {wanted}.")


def shown(source: str | Path) -> str:
    """A name in a sentence, cut if it is long."""
    text = str(source)
    return text if len(text) <= 4 * _SHOWN else f"{text[:_SHOWN]}…"
