"""Chats as JSON files, and the default ones.

A file holds a list of messages, or an object with the published options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.errors import InputError
from mobile_runtime.files import load_json

_KINDS: Mapping[str, type] = {
    "messages": list,
    "system_prompt": str,
    "enable_thinking": bool,
    "max_slice_nums": int,
    "use_image_id": bool,
    "temporal_ids": list,
}


@dataclass(frozen=True)
class Chat:
    """One conversation; relative paths of its pictures start at `folder`."""

    messages: Sequence[Mapping[str, Any]]
    options: PromptOptions
    max_slice_nums: int | None
    folder: Path | None


def read_chat(path: Path) -> Chat:
    """Read a chat file. Raises `InputError` if it is not valid."""
    value = load_json(path, "give a chat file")
    values = {"messages": value} if isinstance(value, list) else value
    return parse_chat(values, str(path), path.parent)


def parse_chat(values: Any, where: str, folder: Path | None = None) -> Chat:
    """Check the object and turn it into a Chat. Raises `InputError`, which begins with `where`."""
    if not isinstance(values, dict) or "messages" not in values:
        raise InputError(f"{where} must be a list of messages or an object with 'messages'.")
    for key, value in values.items():
        if key not in _KINDS:
            raise InputError(f"{where} has {key!r}; allowed are {', '.join(_KINDS)}.")
        if value is not None and type(value) is not _KINDS[key]:
            raise InputError(f"{where}: {key} must be a {_KINDS[key].__name__}, not {value!r}.")
    messages = list(values["messages"])
    if values.get("system_prompt"):
        messages.insert(0, {"role": "system", "content": values["system_prompt"]})
    thinking = values.get("enable_thinking")
    options = PromptOptions(
        enable_thinking=bool(thinking),
        use_image_id=values.get("use_image_id"),
        temporal_ids=values.get("temporal_ids"),
    )
    return Chat(messages, options, values.get("max_slice_nums"), folder)


@dataclass(frozen=True)
class NamedChat:
    """A chat with the name under which reports show it."""

    name: str
    chat: Chat


def picture(width: int, height: int, k: int) -> Image.Image:
    """A colourful picture with smooth and sharp parts, different for every `k`."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = (x * 255 / max(width - 1, 1) + 40 * k) % 256
    green = (y * 255 / max(height - 1, 1) + 90 * k) % 256
    blue = 127 + 127 * np.sin(x / (5 + k)) * np.cos(y / (9 + k))
    checks = ((x // 24 + y // 24 + k) % 2) * 80
    pixels = np.stack([red, green, blue], axis=-1) * 0.7 + checks[..., None]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def default_chats() -> list[NamedChat]:
    """One chat for each kind of input."""
    frames = [picture(320, 180, k) for k in range(3)]
    return [
        _chat("picture", [_image(picture(640, 480, 1)), _text("What is in the picture?")]),
        _chat(
            "video",
            [*map(_image, frames), _text("What happens?")],
            PromptOptions(use_image_id=False, temporal_ids=[[0, 5, 10]]),
        ),
        _chat("text", [_text("Name three colours.")], PromptOptions(enable_thinking=True)),
    ]


def _chat(
    name: str, parts: list[dict[str, object]], options: PromptOptions | None = None
) -> NamedChat:
    slices = 1 if name == "video" else None
    messages = [{"role": "user", "content": parts}]
    return NamedChat(name, Chat(messages, options or PromptOptions(), slices, None))


def _image(image: Image.Image) -> dict[str, object]:
    return {"type": "image", "image": image}


def _text(text: str) -> dict[str, object]:
    return {"type": "text", "text": text}
