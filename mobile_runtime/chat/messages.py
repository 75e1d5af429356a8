"""Chat messages in the transformers convention, checked: roles, text, pictures and videos.

It refuses what the chat format cannot express (tools, unknown parts). It knows no tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from mobile_runtime.errors import InputError
from mobile_runtime.pictures.rgb import WHITE, Colour, parse_background

ROLES = ("system", "user", "assistant")
_SAMPLING = ("fps", "max_frames", "packing")  # of a film
_LARGEST = (1 << 63) - 1  # of Swift's integers
_BACKGROUND = "background"
# What the parts of each type may hold.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "image": ("image", "path", "url"),
    "video": ("video", "path", "url"),
}
# What they may hold besides one of these.
_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "text": (),
    "image": (_BACKGROUND,),
    "video": (*_SAMPLING, _BACKGROUND),
}


@dataclass(frozen=True)
class Media:
    """A picture or video found in a message; `source` is whatever the message gives. `sampling`
    says which frames of a film are read: `fps`, `max_frames`, `packing`. `background` shows through
    what is transparent; None leaves transparency out."""

    kind: Literal["image", "video"]
    source: Any
    sampling: Mapping[str, int] = field(default_factory=dict)
    background: Colour | None = WHITE


@dataclass(frozen=True)
class Turn:
    """One message: text and media in order, and thoughts if they are given separately."""

    role: str
    parts: tuple[str | Media, ...]
    reasoning: str | None

    @property
    def media(self) -> list[Media]:
        """Its pictures and videos, in order."""
        return [part for part in self.parts if isinstance(part, Media)]

    def text(self) -> str:
        """The content with its parts joined as published; a picture counts as no text."""
        return "\n".join(part if isinstance(part, str) else "" for part in self.parts)


def collect_media(turns: Sequence[Turn]) -> list[Media]:
    """Pictures and videos of a conversation, in order."""
    return list(chain.from_iterable(turn.media for turn in turns))


def read_turns(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Return the messages as turns. Raises `InputError` for the first thing that is not valid."""
    listed = isinstance(messages, Sequence) and not isinstance(messages, str)
    if not listed or len(messages) == 0:
        raise InputError('Messages must be a list such as [{"role": "user", "content": "Hi"}].')
    return [_read_turn(message) for message in messages]


def _read_turn(message: Mapping[str, Any]) -> Turn:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise InputError(f"A message needs a role and a content, not {str(message)[:80]!r}.")
    role, reasoning = message["role"], message.get("reasoning_content")
    if unknown := sorted(message.keys() - {"role", "content", "reasoning_content"}):
        raise InputError(
            f"A message has {', '.join(unknown)}; only role, content and reasoning_content are "
            "supported, tools are not."
        )
    if role not in ROLES:
        raise InputError(f"A message has the role {role!r}; the roles are {', '.join(ROLES)}.")
    if reasoning is not None and not isinstance(reasoning, str):
        raise InputError(f"reasoning_content must be text, not {type(reasoning).__name__}.")
    content = message["content"]
    if isinstance(content, str):
        return Turn(role, (content,), reasoning)
    if not isinstance(content, (list, tuple)):
        raise InputError(
            f"A message's content must be text or a list of parts, not {type(content).__name__}."
        )
    parts = tuple(_read_part(part) for part in content)
    if role != "user" and any(isinstance(part, Media) for part in parts):
        raise InputError(f"A message of the role {role} holds a picture; only the user's may.")
    return Turn(role, parts, reasoning)


def _checked(sampling: Mapping[str, Any]) -> dict[str, int]:
    for key, value in sampling.items():
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise InputError(
                f"{key} of a video is {str(value)[:40]}; give a whole number from 1 on."
            )
    return dict(sampling)


def _read_part(part: Any) -> str | Media:
    kind: Any = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise InputError(
            'A content part must be {"type": "text", "text": …}, {"type": "image", "image": …} or '
            f'{{"type": "video", "video": …}}, not one of type {kind or type(part).__name__!r}.'
        )
    settings = {key: part[key] for key in _SETTINGS[kind] if key in part}
    keys = part.keys() - {"type"} - settings.keys()
    if unknown := sorted(map(str, keys - set(_KEYS[kind]))):
        besides = f", and {', '.join(_SETTINGS[kind])}" if _SETTINGS[kind] else ""
        raise InputError(
            f"A part of type {kind!r} has {', '.join(unknown)}; there may be one of "
            f"{', '.join(_KEYS[kind])}{besides}."
        )
    if len(keys) != 1:
        raise InputError(
            f"A part of type {kind!r} has {', '.join(sorted(keys)) or 'nothing else'}; give one of "
            f"{', '.join(_KEYS[kind])}."
        )
    (value,) = (part[key] for key in keys)
    if kind != "text":
        shows = parse_background(settings.pop(_BACKGROUND)) if _BACKGROUND in settings else WHITE
        return Media("video" if kind == "video" else "image", value, _checked(settings), shows)
    if not isinstance(value, str):
        raise InputError(f"A text part must hold text, not {type(value).__name__}.")
    return value
