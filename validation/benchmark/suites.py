"""The suites: names of tasks, and how each makes its items. No item needs a network.

An item is asked, or read: what it is made of decides its digest, by which results are compared.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from mobile_runtime.chat.conversation import ChatFormat
from mobile_runtime.errors import InputError
from validation.answers.rows import SEED, draw_item
from validation.benchmark import documents
from validation.quality.passages import KINDS, CopyTask, Passage, copy_tasks, of_text
from validation.questions.question import Question

Metric = Literal["right answers", "edit distance", "bits per byte"]
METRICS: Mapping[Metric, str] = {
    "right answers": "share of answers that are exactly right",
    "edit distance": "mean distance of a text from the right one, per character of the longer "
    "(0 to 1; less is better)",
    "bits per byte": "what the text costs under the model's predictions (less is better)",
}
STRETCH = 512  # tokens of a text that are read at a time
COPIED = (128, 512, 2048, 4096)  # tokens of lists to copy from
Item = Question | Passage | CopyTask
_Maker = Callable[[ChatFormat, int], Sequence[Item]]


@dataclass(frozen=True)
class Task:
    """`make(chat_format, limit)` gives at most about `limit` items; it raises `InputError` if what
    they are made of is missing."""

    metric: Metric
    make: _Maker


def digest(items: Sequence[Item]) -> str:
    """SHA-256 of what the items are made of: pictures, questions, answers, tokens."""
    whole = hashlib.sha256()
    for item in items:
        if isinstance(item, Question):
            for picture in item.pictures:
                whole.update(f"{picture.image.size}".encode() + picture.image.tobytes())
            whole.update(repr((item.turns, item.temporal_ids)).encode())
        else:
            passage = item.passage if isinstance(item, CopyTask) else item
            for array in (passage.ids, passage.scored, passage.targets):
                whole.update(np.asarray(array, "<i8").tobytes())
    return whole.hexdigest()


def _questions(row: str, chat_format: ChatFormat, limit: int) -> list[Question]:
    return [draw_item(row, index) for index in range(limit)]


def _documents(
    draw: Callable[[np.random.Generator], Question], chat_format: ChatFormat, limit: int
) -> list[Question]:
    kind = documents.KINDS.index(draw)
    return [draw(np.random.default_rng([SEED, kind, index])) for index in range(limit)]


def _copying(kind: str, length: int, chat_format: ChatFormat, limit: int) -> list[CopyTask]:
    tasks = copy_tasks(chat_format, length, (length,), limit)
    return [task for task in tasks if task.kind == kind]


def _text(read: Callable[[], str], chat_format: ChatFormat, limit: int) -> list[Passage]:
    return of_text(read(), chat_format, limit * STRETCH + 1, STRETCH)


def _licences() -> str:
    """The licences that numpy's wheel carries."""
    files = [
        file for file in importlib.metadata.files("numpy") or () if "licen" in str(file).lower()
    ]
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(files))
    if not text:
        raise InputError("this numpy comes without its licences.")
    return text


def _manual() -> str:
    """The Python language reference, as `help()` has it."""
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError as missing:
        raise InputError("this Python comes without its language reference.") from missing
    return "\n".join(topics[name] for name in sorted(topics))


def _asked(row: str) -> Task:
    return Task("right answers", partial(_questions, row))


_DOCUMENTS: Mapping[str, Task] = {
    "pages": Task("edit distance", partial(_documents, documents.page)),
    "receipts": Task("edit distance", partial(_documents, documents.receipt)),
    "charts": Task("right answers", partial(_documents, documents.chart)),
}
_TEXTS: Mapping[str, Task] = {
    "licences": Task("bits per byte", partial(_text, _licences)),
    "language reference": Task("bits per byte", partial(_text, _manual)),
}


def _lists(lengths: Sequence[int]) -> dict[str, Task]:
    return {
        f"{kind} in {length} tokens": Task("right answers", partial(_copying, kind, length))
        for length in lengths
        for kind in KINDS
    }


_QUICK = ("printed_text", "shapes", "second_turn")
SUITES: Mapping[str, Mapping[str, Task]] = {
    "quick": {**{row: _asked(row) for row in _QUICK}, **_lists(COPIED[:1]), **_TEXTS},
    "ocr": {"printed_text": _asked("printed_text"), "slices": _asked("slices"), **_DOCUMENTS},
    "text": {**_TEXTS, **_lists(COPIED)},
}
