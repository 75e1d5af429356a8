"""The chats by which bundles are compared unless a user gives others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mobile_runtime.chat.chat_file import Chat
from mobile_runtime.chat.prompt import PromptOptions


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
