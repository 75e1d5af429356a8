"""A conversation's messages as JSON, so that they can be read in another place and time.

Paths become absolute and pictures in memory become data URIs with the same pixels.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mobile_runtime.chat.messages import read_turns
from mobile_runtime.errors import InputError
from mobile_runtime.pictures.images import to_rgb
from mobile_runtime.pictures.sources import locate

_SOURCES = ("image", "video", "path", "url")  # keys of a part that say what it shows
MAX_BYTES = 64 << 20


def pack_messages(messages: Sequence[Mapping[str, Any]], folder: Path | None = None) -> bytes:
    """The messages, which may be none, in JSON; relative paths start at `folder`. Raises
    `InputError` for messages that are not valid, or with too many pictures in memory."""
    if messages:
        read_turns(messages)
    kept = [{**one, "content": _content(one["content"], folder)} for one in messages]
    data = json.dumps(kept, ensure_ascii=False).encode()
    if len(data) > MAX_BYTES:
        raise InputError(
            f"the messages with their pictures take {len(data) >> 20} MB, and {MAX_BYTES >> 20} MB "
            "are kept; give pictures as paths."
        )
    return data


def unpack_messages(data: bytes) -> list[dict[str, Any]]:
    """The messages that `pack_messages` packed. Raises `ValueError` if they are none."""
    try:
        messages = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if messages != []:
        read_turns(messages)
    return [dict(message) for message in messages]


def _content(content: Any, folder: Path | None) -> Any:
    return content if isinstance(content, str) else [_part(part, folder) for part in content]


def _part(part: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    shows = part["type"] != "text"
    return {
        key: _source(value, folder) if shows and key in _SOURCES else value
        for key, value in part.items()
    }


def _source(source: Any, folder: Path | None) -> Any:
    if isinstance(source, list | tuple):
        return [_source(frame, folder) for frame in source]
    if isinstance(source, Image.Image):
        png = io.BytesIO()
        to_rgb(source).save(png, "png", compress_level=1)
        return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    found = locate(source, folder)
    return str(source) if isinstance(found, bytes) else str(found.absolute())
