"""What models are given to continue: stretches of texts, answers of chats, strings to copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.calibration.examples import read_examples
from mobile_runtime.chat.chat_file import Chat
from mobile_runtime.chat.conversation import ChatFormat, PreparedPrompt, prepare_prompt
from mobile_runtime.chat.messages import read_turns
from mobile_runtime.chat.prompt import encode_text
from mobile_runtime.errors import InputError

Array = np.ndarray
_STRETCH = 512  # tokens of a text
LENGTHS = (128, 512, 2048)  # tokens of a list of strings and the questions after it, at most
_STRINGS = 16  # of each kind and length that are asked for, at least
_ASKED = 8  # strings of a list, at most
_SIGNS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789"


@dataclass(frozen=True, eq=False)
class Passage:
    """Tokens `ids` (n,) that are read from an empty cache.

    What is expected after the positions `scored` (m,) is judged; there follow the tokens `targets`
    (m,). `prompt` is the chat that `ids` begin with, with its pictures.
    """

    ids: Array
    scored: Array
    targets: Array
    prompt: PreparedPrompt | None = None


@dataclass(frozen=True, eq=False)
class CopyTask:
    """A list of strings of a kind, some of which are asked for after it, `length` tokens in all;
    the tokens of those are `spans` of the passage's targets."""

    kind: str
    length: int
    passage: Passage
    spans: tuple[slice, ...]


def of_text(text: str, chat_format: ChatFormat, tokens: int, longest: int) -> list[Passage]:
    """The first `tokens` tokens of a text in stretches of at most `longest`, every token judged.

    Raises `InputError` for a text of fewer than two tokens.
    """
    ids = np.array(chat_format.tokenizer.encode_text(text)[:tokens], np.int64)
    if len(ids) < 2:
        raise InputError("the text has fewer than two tokens; give a longer one.")
    length = min(_STRETCH, longest)
    parts = (ids[begin : begin + length + 1] for begin in range(0, len(ids) - 1, length))
    return [Passage(part[:-1], np.arange(len(part) - 1), part[1:]) for part in parts]


def of_chats(path: Path, chat_format: ChatFormat, longest: int) -> list[Passage]:
    """The chats of a file of examples, the tokens of their last answers judged.

    Raises `InputError` for a chat that does not end with an answer, or is longer than `longest`.
    """
    chats = read_examples(str(path)).chats
    if not chats:
        raise InputError(f"{path} holds no chats; give some that end with an answer.")
    passages = []
    for number, chat in enumerate(chats, 1):
        passages.append(_of_chat(chat, f"{path}, chat {number}", chat_format))
        if (count := len(passages[-1].ids)) > longest:
            raise InputError(
                f"{path}, chat {number} has {count} tokens, but the context of a bundle holds "
                f"{longest}; shorten it, or export with a larger --context-length."
            )
    return passages


def _of_chat(chat: Chat, where: str, chat_format: ChatFormat) -> Passage:
    *before, answer = read_turns(chat.messages)
    if answer.role != "assistant" or not before:
        raise InputError(f"{where} does not end with an answer; add it as the assistant's message.")
    if chat.options.enable_thinking or answer.reasoning:
        raise InputError(f"{where} thinks, and thoughts are not judged; give it without.")
    questions = chat.messages[:-1]
    prompt = prepare_prompt(questions, chat_format, chat.options, chat.max_slice_nums, chat.folder)
    end = chat_format.prompt.special_tokens["message_end"].id
    answered = encode_text(answer.text(), chat_format.tokenizer, chat_format.prompt)
    targets = np.array([*answered, end], np.int64)
    first = len(prompt.encoded.input_ids)
    ids = np.concatenate([prompt.encoded.input_ids, targets[:-1]])
    return Passage(ids, np.arange(first - 1, len(ids)), targets, prompt)


def copy_tasks(
    chat_format: ChatFormat,
    longest: int,
    lengths: Sequence[int] = LENGTHS,
    strings: int = _STRINGS,
) -> list[CopyTask]:
    """Lists of strings of all kinds, of those `lengths` that are at most `longest`; at least
    `strings` strings of each kind and length are asked for."""
    tasks = []
    for kind in _KINDS:
        for length in (length for length in lengths if length <= longest):
            made: list[CopyTask] = []
            while sum(len(task.spans) for task in made) < strings:
                made.append(_copy_task(kind, length, len(made), chat_format))
            tasks += made
    return tasks


def _copy_task(kind: str, length: int, seed: int, chat_format: ChatFormat) -> CopyTask:
    encode = chat_format.tokenizer.encode_text
    rng = np.random.default_rng([seed, length, KINDS.index(kind)])
    begun = encode("\nOnce more:\n")
    line = len(encode("Record 1000:") + encode(f" {_KINDS[kind](rng)}") + encode("\n")) + 1
    lines = (length - len(begun)) // line
    asked = max(1, min(_ASKED, lines // 2))
    strings = [_KINDS[kind](rng) for _ in range(max(1, lines - asked))]
    ids: list[int] = []
    for number, string in enumerate(strings, 1):
        ids += encode(f"Record {number}:") + encode(f" {string}") + encode("\n")
    ids += begun
    scored: list[int] = []
    spans = []
    for number in rng.permutation(len(strings))[:asked].tolist():
        ids += encode(f"Record {number + 1}:")
        answer = encode(f" {strings[number]}")
        spans.append(slice(len(scored), len(scored) + len(answer)))
        scored += range(len(ids) - 1, len(ids) - 1 + len(answer))
        ids += answer + encode("\n")
    places = np.array(scored)
    targets = np.array(ids, np.int64)[places + 1]
    return CopyTask(
        kind, length, Passage(np.array(ids[: scored[-1] + 1]), places, targets), tuple(spans)
    )


def _signs(rng: np.random.Generator, signs: str, count: int) -> str:
    return "".join(signs[n] for n in rng.integers(len(signs), size=count))


def _digits(rng: np.random.Generator) -> str:
    return _signs(rng, "0123456789", 8)


def _date(rng: np.random.Generator) -> str:
    year, month, day = rng.integers((1900, 1, 1), (2100, 13, 29)).tolist()
    return f"{year}-{month:02d}-{day:02d}"


def _identifier(rng: np.random.Generator) -> str:
    return f"{_signs(rng, _SIGNS, 4)}-{_signs(rng, _SIGNS, 4)}"


_KINDS: Mapping[str, Callable[[np.random.Generator], str]] = {
    "digits": _digits,
    "dates": _date,
    "identifiers": _identifier,
}
KINDS: Sequence[str] = tuple(_KINDS)
