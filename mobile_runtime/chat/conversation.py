"""Messages -> a prompt ready to run: token ids, the views of each picture group, reuse keys.

Needs the chat format and the image processor's constants, no graph and no weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.bundle import Preprocessing, Prompt
from mobile_runtime.chat.media import Frames, load_frames, view_digest
from mobile_runtime.chat.messages import Turn, read_turns
from mobile_runtime.chat.prompt import EncodedPrompt, PromptOptions, encode_prompt
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.errors import InputError
from mobile_runtime.pictures.preprocess import View

_AROUND_TURN = 8  # tokens around a turn's text
_SHORT = 32  # bytes for each token of the context, which are encoded without a look at the tokens
_COMPOSED = 4  # a tokenizer may compose letters and marks, which takes a third of their bytes
Key = int | tuple[bytes, int]  # a token id, or (digest of a group of views, embedding)


@dataclass(frozen=True)
class ChatFormat:
    """The tokenizer, the chat format and the image processor's constants of one model."""

    tokenizer: Tokenizer
    prompt: Prompt
    preprocessing: Preprocessing


@dataclass(frozen=True)
class PreparedPrompt:
    """Token ids, the views that fill each row of `image_bound`, all views' sizes (n, 2) in patches,
    and one reuse key per position: rows of the cache are equal if all keys up to theirs are."""

    encoded: EncodedPrompt
    groups: tuple[tuple[View, ...], ...]
    tgt_sizes: np.ndarray
    keys: tuple[Key, ...]


def prepare_prompt(
    messages: Sequence[Mapping[str, Any]],
    chat_format: ChatFormat,
    options: PromptOptions,
    max_slice_nums: int | None = None,
    folder: Path | None = None,
    room: int | None = None,
) -> PreparedPrompt:
    """Read the pictures and build the prompt; relative paths start at `folder`. Films that would
    not fit in `room` tokens, with what is said up to them, are read as fewer frames, as
    `load_frames` says.

    Raises `InputError` for messages or pictures that are not valid, and before they are encoded for
    texts that are far too long for `room`.
    """
    config = chat_format.preprocessing
    turns = read_turns(messages)
    if room is not None:
        _check_texts(turns, chat_format.tokenizer, room)
    if options.temporal_ids is not None:
        room = None  # these say how many frames there are
    if room is not None:
        room -= _tokens_before(turns, chat_format.tokenizer)
    media = load_frames(turns, config, max_slice_nums, folder, room)
    encoded = encode_prompt(
        turns,
        [frames.layout for frames in media],
        chat_format.tokenizer,
        chat_format.prompt,
        config,
        options,
    )
    groups = _group_views(media, encoded)
    sizes = [view.tgt_size for item in media for views in item.views for view in views]
    tgt_sizes = np.array(sizes, np.int32).reshape(-1, 2)
    return PreparedPrompt(encoded, groups, tgt_sizes, reuse_keys(encoded, groups))


def _check_texts(turns: Sequence[Turn], tokenizer: Tokenizer, room: int) -> None:
    """Raises `InputError` for texts that cannot fit in `room` tokens, before minutes and gigabytes
    go into their exact number."""
    size = sum(len(turn.text().encode("utf-8", "replace")) for turn in turns)
    if size <= _SHORT * room:
        return
    if (least := size // (_COMPOSED * tokenizer.longest_token)) > room:
        raise InputError(
            f"the prompt has {size:,} bytes of text, at least {least:,} tokens, and the context "
            f"holds {room} with the answer; shorten it."
        )


def _tokens_before(turns: Sequence[Turn], tokenizer: Tokenizer) -> int:
    """Tokens of the texts up to the turn with the last film, about. Later ones do not count: the
    frames of a film would change with every question about it."""
    films = [n for n, turn in enumerate(turns) if any(m.kind == "video" for m in turn.media)]
    told = turns[: films[-1] + 1] if films else []
    return sum(len(tokenizer.encode_text(turn.text())) + _AROUND_TURN for turn in told)


def _group_views(media: Sequence[Frames], encoded: EncodedPrompt) -> tuple[tuple[View, ...], ...]:
    frames = [views for item in media for views in item.views]
    return tuple(
        tuple(frames[frame][group.view] for frame in group.frames) for group in encoded.groups
    )


def reuse_keys(encoded: EncodedPrompt, groups: Sequence[Sequence[View]]) -> tuple[Key, ...]:
    """A key for each position: the token, or the digest of its group of views and the embedding's
    number in it."""
    keys: list[Key] = encoded.input_ids.tolist()
    for bound, group, views in zip(encoded.image_bound, encoded.groups, groups, strict=True):
        digest = hashlib.sha256(repr(group.temporal_ids).encode())
        for view in views:
            digest.update(view_digest(view))
        begin, end = map(int, bound)
        keys[begin:end] = [(digest.digest(), n) for n in range(end - begin)]
    return tuple(keys)
