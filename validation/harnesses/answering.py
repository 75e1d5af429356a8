"""What harnesses ask of a model for pictures: an answer, by options in transformers' words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.files import check_place, write_text
from mobile_runtime.session import GREEDY, ChatOptions, Session

# Option -> what it has to be, for the bundle to do it.
_TAKEN = {"num_beams": (None, 1), "num_return_sequences": (None, 1)}
_CHOSEN = ("temperature", "top_k", "top_p", "seed")
_KNOWN = {"until", "max_new_tokens", "do_sample", *_CHOSEN, *_TAKEN}


def engine_options(
    engine: str, precision: Literal["fp32", "fp16"], threads: int | str
) -> EngineOptions:
    """How a bundle is run, as harnesses give it. Raises `InputError` for another precision."""
    if precision not in ("fp16", "fp32"):
        raise InputError(f"precision is {precision}; it must be fp16 or fp32.")
    return EngineOptions(engine, precision, threads=int(threads))


def greedy_options(
    max_new_tokens: int, max_slice_nums: int | None, enable_thinking: bool
) -> ChatOptions:
    """How a question is asked unless its task says otherwise."""
    return replace(
        GREEDY,
        prompt=PromptOptions(enable_thinking=enable_thinking),
        max_slice_nums=max_slice_nums,
        max_new_tokens=max_new_tokens,
    )


def chat_options(
    given: Mapping[str, Any], default: ChatOptions
) -> tuple[ChatOptions, tuple[str, ...]]:
    """(options, texts that end an answer) for a request, greedy unless it samples: a temperature of
    0 or no `do_sample` is greedy, as in the harnesses' own models. Raises `InputError` for an
    option that the runtime does not have."""
    wrong = sorted(
        name
        for name, value in given.items()
        if name not in _KNOWN or value not in _TAKEN.get(name, (value,))
    )
    if wrong:
        raise InputError(
            f"a task asks for {', '.join(wrong)}; a bundle takes {', '.join(sorted(_KNOWN))}, "
            "without beams."
        )
    until = given.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(filter(None, until))
    options = replace(default, max_new_tokens=given.get("max_new_tokens", default.max_new_tokens))
    if given.get("do_sample") and given.get("temperature", 1.0):
        neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0}
        asked = {name: given[name] for name in _CHOSEN if given.get(name) is not None}
        options = replace(options, **neutral | asked)
    return options, until


def answer_of(
    session: Session,
    messages: Sequence[Mapping[str, Any]],
    options: ChatOptions,
    until: Sequence[str] = (),
) -> str:
    """The session's answer, up to the first of the texts `until`, which is left out."""
    text = ""
    for piece in session.chat(messages, options):
        text += piece
        if any(end in text for end in until):
            break
    return min((text.split(end)[0] for end in until), key=len, default=text).strip()


class KeptAnswers:
    """Answers of a run in a file, one a line, as they are made; a run that was stopped goes on.

    The first line says of what bundle and how it is run. Raises `InputError` for a file of another
    run, or a place that cannot be written to. Without a path, nothing is kept.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any]) -> None:
        self._path = path
        self._found: dict[str, str] = {}
        if path is None:
            return
        head = json.dumps(run, sort_keys=True)
        lines = [head, ""]
        if path.is_file():
            lines = path.read_text(encoding="utf-8").split("\n")
            if lines[0] != head:
                raise InputError(
                    f"{path} holds answers of another run; remove it, or give another."
                )
        else:
            check_place(path)
        whole = lines[:-1]  # the last one was not written to its end
        write_text(path, "\n".join([*whole, ""]))
        self._found.update(map(json.loads, whole[1:]))

    def get(self, key: str, make: Callable[[], str]) -> str:
        """The answer that is kept under `key`; `make` gives it if there is none."""
        if key not in self._found:
            self._found[key] = make()
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, self._found[key]]) + "\n")
        return self._found[key]


def question_digest(messages: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> str:
    """A digest of messages, their pictures' pixels too, and of a request's options."""
    total = hashlib.sha256(repr(sorted(given.items())).encode())
    for message in messages:
        total.update(message["role"].encode())
        for part in message["content"]:
            value = part[part["type"]]
            if isinstance(value, Image.Image):
                total.update(f"{value.mode} {value.size}".encode() + value.tobytes())
            else:
                total.update(repr(value).encode())
    return total.hexdigest()
