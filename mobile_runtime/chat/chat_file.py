"""Chats as JSON files.

A file holds a list of messages, or an object with the published options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
