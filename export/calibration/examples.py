"""Examples to calibrate on: chats and texts of a JSON file, as token ids and pictures.

A file is a list of chats, or an object with `chats` and `texts`. A chat is what the runtime takes:
a list of messages, or an object with `messages` and options; paths of its pictures start at the
file's folder. A text is a string, which is cut into pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.quant.recipes import SHIPPED_EXAMPLES
from mobile_runtime.chat.chat_file import Chat, parse_chat
from mobile_runtime.chat.conversation import ChatFormat, PreparedPrompt, prepare_prompt
from mobile_runtime.chat.messages import collect_media, read_turns
from mobile_runtime.chat.prompt import can_think
from mobile_runtime.errors import InputError
from mobile_runtime.files import load_json
from mobile_runtime.pictures.sources import locate

_FOLDER = Path(__file__).parent / "data"
_SHIPPED = ("texts.json", "pictures.json")
_PIECE = 512  # tokens of a text that are read together
_KEYS = {"chats", "texts", "sources"}


@dataclass(frozen=True)
class Examples:
    """Chats and texts, and what identifies them: a name, and a digest of the file and of all
    pictures."""

    name: str
    sha256: str
    chats: tuple[Chat, ...]
    texts: tuple[str, ...]


def read_examples(given: str) -> Examples:
    """Read a file of examples, or those that ship. Raises `InputError` if it is not valid or holds
    nothing."""
    shipped = given == SHIPPED_EXAMPLES
    paths = [_FOLDER / name for name in _SHIPPED] if shipped else [Path(given).expanduser()]
    total, chats, texts = hashlib.sha256(), [], []
    for path in paths:
        values = _read(path)
        total.update(path.read_bytes())
        texts += values.get("texts", [])
        for n, chat in enumerate(values.get("chats", [])):
            chats.append(_chat(chat, f"{path}, chat {n + 1}", path.parent))
            for file in _media(chats[-1]):
                total.update(hashlib.sha256(file.read_bytes()).digest())
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{paths[0]}: texts must be a list of strings.")
    if not chats and not any(texts):
        raise InputError(f"{paths[0]} holds neither chats nor texts; give some to calibrate on.")
    name = SHIPPED_EXAMPLES if shipped else paths[0].name
    return Examples(name, total.hexdigest(), tuple(chats), tuple(texts))


def _read(path: Path) -> Mapping[str, Any]:
    value = load_json(path, f'give a JSON file of chats and texts, or "{SHIPPED_EXAMPLES}"')
    value = {"chats": value} if isinstance(value, list) else value
    if not isinstance(value, dict) or not value.keys() <= _KEYS:
        raise InputError(f"{path} must be a list of chats, or an object with chats and texts.")
    for key in ("chats", "texts"):
        if not isinstance(value.get(key, []), list):
            raise InputError(f"{path}: {key} must be a list.")
    return value


def _chat(value: Any, where: str, folder: Path) -> Chat:
    return parse_chat({"messages": value} if isinstance(value, list) else value, where, folder)


def _media(chat: Chat) -> Iterator[Path]:
    """The files of a chat's pictures and videos, as far as they exist. Raises `InputError` for
    messages that are not valid."""
    for media in collect_media(read_turns(chat.messages)):
        if isinstance(media.source, str):
            path = locate(media.source, chat.folder)
            if isinstance(path, Path) and path.is_file():  # a data URI is in the file itself
                yield path


def prepare_chats(examples: Examples, chat_format: ChatFormat) -> list[PreparedPrompt]:
    """The chats as prompts of the model; those that ship with thoughts are left out for one that
    does not think. Raises `InputError` for messages that are not valid."""
    leaves_out = examples.name == SHIPPED_EXAMPLES and not can_think(chat_format.prompt)
    return [
        prepare_prompt(chat.messages, chat_format, chat.options, chat.max_slice_nums, chat.folder)
        for chat in examples.chats
        if not (leaves_out and chat.options.enable_thinking)
    ]


def cut_texts(examples: Examples, chat_format: ChatFormat, tokens: int) -> list[list[int]]:
    """Token ids of the texts in pieces of `_PIECE`, at equal distances if there are more than so
    many `tokens`; what is left at the end of a long text is a piece of its own if it is at least
    half as long."""
    pieces = []
    for text in examples.texts:
        ids = list(chat_format.tokenizer.encode_text(text))
        whole = [ids[n : n + _PIECE] for n in range(0, len(ids), _PIECE)]
        pieces += [piece for piece in whole if 2 * len(piece) >= _PIECE or len(whole) == 1]
    most = max(1, tokens // _PIECE)
    step = max(1, len(pieces) / most)
    return [pieces[int(n * step)] for n in range(min(len(pieces), most))]
