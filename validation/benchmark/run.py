"""Puts the items of a suite to models, one by one, and keeps what was found across a stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.chat.conversation import ChatFormat
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.files import write_text
from mobile_runtime.model.hub import bundle_name
from mobile_runtime.session import Session
from validation.answers.answers import Answerer, ask, bundle_answerer, reference_answerer
from validation.benchmark.facts import bundle_facts
from validation.benchmark.statistics import edit_distance
from validation.benchmark.suites import Item, Task
from validation.parity.metrics import log_softmax
from validation.quality.measure import bundle_logits, reference_logits
from validation.quality.passages import CopyTask, Passage
from validation.questions.question import Question
from validation.reference.reference import Reference
from validation.sources import OpenCheckpoint

NEW_TOKENS = 256  # of an answer, at most
Array = np.ndarray


@dataclass(frozen=True)
class Record:
    """What a model made of one item, or of one string of a list: `value` per `weight` is the
    task's figure. Records of one `item` depend on each other."""

    task: str
    candidate: str
    item: int
    value: float
    weight: float
    expected: str = ""
    given: str = ""


@dataclass(frozen=True)
class Candidate:
    """A model that is judged. `facts` say which it is. `longest` is the most tokens that it reads
    at a time (None: any number)."""

    name: str
    facts: Mapping[str, Any]
    tokenizer: Tokenizer
    answer: Answerer
    logits: Callable[[Passage], Array]
    longest: int | None = None


def bundle_candidate(bundle: Path, options: EngineOptions) -> tuple[Candidate, Session]:
    """Open a bundle; the session is that of the candidate."""
    session = Session.load(bundle, options)
    manifest = session.manifest
    facts = {"bundle": bundle_name(bundle), **bundle_facts(bundle, manifest, options)}
    candidate = Candidate(
        "bundle",
        facts,
        session.tokenizer,
        bundle_answerer(session, NEW_TOKENS),
        lambda passage: bundle_logits(session, passage),
        manifest.decoding.context_length,
    )
    return candidate, session


def checkpoint_candidate(source: OpenCheckpoint, name: str, sha256: str) -> Candidate:
    """PyTorch with the checkpoint, in float32. `name` and `sha256` are those of its weights."""
    reference = Reference(source.config, source.checkpoint)
    return Candidate(
        "checkpoint",
        {"checkpoint": name, "checkpoint_sha256": sha256, "engine": "PyTorch", "precision": "fp32"},
        source.chat_format.tokenizer,
        reference_answerer(source, reference, NEW_TOKENS),
        lambda passage: reference_logits(reference, passage),
    )


def judge(candidate: Candidate, task: str, number: int, item: Item) -> list[Record]:
    """What the model makes of an item."""
    if isinstance(item, Question):
        expected, given = item.turns[-1].answer, ask(item, candidate.answer)
        value = float(given == expected)
        if "\n" in expected:  # a whole text
            given, expected = " ".join(given.split()), " ".join(expected.split())
            value = edit_distance(given, expected) / max(len(given), len(expected))
        return [Record(task, candidate.name, number, value, 1, expected, given)]
    passage = item.passage if isinstance(item, CopyTask) else item
    logits = candidate.logits(passage)
    if isinstance(item, CopyTask):
        best = logits.argmax(-1)
        decode = candidate.tokenizer.decode
        answers = [
            (decode(passage.targets[span].tolist()), decode(best[span].tolist()))
            for span in item.spans
        ]
        right = [bool((best[span] == passage.targets[span]).all()) for span in item.spans]
        return [
            Record(task, candidate.name, number, float(good), 1, *answer)
            for good, answer in zip(right, answers, strict=True)
        ]
    rows = log_softmax(logits)
    bits = -rows[np.arange(len(passage.targets)), passage.targets].sum() / np.log(2)
    size = sum(len(candidate.tokenizer.token_bytes(token)) for token in passage.targets.tolist())
    return [Record(task, candidate.name, number, float(bits), float(size))]


class Log:
    """Records beside the output, one JSON object a line, of a run that goes on after a stop.

    The first line says of what run. Raises `InputError` if a file holds those of another one.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any]) -> None:
        self._path = path
        self.found: dict[tuple[str, str, int], list[Record]] = {}
        head = json.dumps(run, sort_keys=True)
        if path is None:
            return
        if not path.is_file():
            write_text(path, head + "\n")
            return
        lines = path.read_text(encoding="utf-8").split("\n")
        if lines[0] != head:
            raise InputError(
                f"{path} holds the beginning of another run; remove it, or give another --json."
            )
        whole = lines[1:-1]  # the last one was not written to its end
        for line in whole:
            records = [Record(**record) for record in json.loads(line)]
            first = records[0]
            self.found[first.candidate, first.task, first.item] = records
        write_text(path, "\n".join([head, *whole, ""]))

    def add(self, records: Sequence[Record]) -> None:
        """Keep the records of one item."""
        first = records[0]
        self.found[first.candidate, first.task, first.item] = list(records)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([asdict(record) for record in records]) + "\n")

    def close(self) -> None:
        """Remove the file: the result holds its records."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def run_task(
    candidate: Candidate, name: str, items: Sequence[Item], log: Log
) -> Iterator[list[Record]]:
    """Yield the records of each item. Raises `InputError`, before the first, if an item is longer
    than the model reads."""
    lengths = [_length(item) for item in items]
    if candidate.longest is not None and max(lengths) > candidate.longest:
        raise InputError(
            f"it takes {max(lengths)} tokens, and the context holds {candidate.longest}."
        )
    for number, item in enumerate(items):
        key = (candidate.name, name, number)
        if key not in log.found:
            log.add(judge(candidate, name, number, item))
        yield log.found[key]


def _length(item: Item) -> int:
    """Tokens that are read, as far as that is known before."""
    if isinstance(item, Question):
        return 0
    return len(item.passage.ids if isinstance(item, CopyTask) else item.ids)


def run_suite(
    candidates: Sequence[Candidate],
    items: Mapping[str, Sequence[Item]],
    log: Log,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[Record], dict[str, dict[str, str]]]:
    """All records, and why a candidate did not run a task: by candidate, then task."""
    records: list[Record] = []
    not_run: dict[str, dict[str, str]] = {}
    for candidate in candidates:
        for name, wanted in items.items():
            try:
                for found in run_task(candidate, name, wanted, log):
                    records += found
                    advance()
            except (InputError, MemoryError) as reason:
                text = "not enough memory" if isinstance(reason, MemoryError) else str(reason)
                not_run.setdefault(candidate.name, {})[name] = text
                records = [r for r in records if (r.candidate, r.task) != (candidate.name, name)]
    return records, not_run


def make_items(
    tasks: Mapping[str, Task], limit: int, session: Session
) -> tuple[dict[str, Sequence[Item]], dict[str, str]]:
    """Items by task, and why those of a task could not be made."""
    manifest = session.manifest
    chat_format = ChatFormat(session.tokenizer, manifest.prompt, manifest.preprocessing)
    items: dict[str, Sequence[Item]] = {}
    missing: dict[str, str] = {}
    for name, task in tasks.items():
        try:
            items[name] = task.make(chat_format, limit)
        except InputError as reason:
            missing[name] = str(reason)
    return items, missing
