"""Right answers of a model: the fixed set of questions, by task, put to PyTorch and to saved
bundles.

The set is drawn from a seed of its own; training never sees its pictures. The model itself answers
the earlier turns of a conversation, as in use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.build.parent import exit_with_parent
from mobile_runtime.bundle import Manifest
from mobile_runtime.chat.chat_file import Chat
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.engines import EngineOptions
from mobile_runtime.session import Session
from validation.answers.report import Answer, AnswerReport, Score
from validation.answers.rows import SEED, draw_item
from validation.parity.trace import prepare_chat, trace_bundle, trace_reference
from validation.questions.question import Question
from validation.reference.reference import Reference
from validation.sources import OpenCheckpoint, open_checkpoint

_MAX_NEW_TOKENS = 64

Answerer = Callable[[Chat], str]


@dataclass(frozen=True)
class Candidate:
    """The model that answers: PyTorch with a checkpoint (None: the pocket model), or a bundle."""

    name: str
    checkpoint: str | None = None
    bundle: Path | None = None
    engine: EngineOptions = EngineOptions()


def candidate_name(manifest: Manifest, precision: str) -> str:
    """Head of a column: the recipe, after the format if that is not Core ML."""
    recipe = str(manifest.recipe.get("name"))
    if manifest.format == "coreml":
        return f"{recipe} {precision}"
    return f"{manifest.format} {recipe}{' exact' if precision == 'fp32' else ''}"


def open_candidate(candidate: Candidate) -> Answerer:
    """Load the model; the function returned answers one chat greedily."""
    if candidate.bundle is not None:
        return bundle_answerer(Session.load(candidate.bundle, candidate.engine))
    source = open_checkpoint(candidate.checkpoint)
    return reference_answerer(source, Reference(source.config, source.checkpoint))


def bundle_answerer(session: Session, limit: int = _MAX_NEW_TOKENS) -> Answerer:
    """Greedy answers of an open bundle, of at most `limit` tokens."""
    stop = session.manifest.prompt.stop_token_ids

    def answer(chat: Chat) -> str:
        arrays = trace_bundle(session, chat, limit)
        return _text(session.tokenizer, arrays["greedy_tokens"], stop)

    return answer


def reference_answerer(
    source: OpenCheckpoint, reference: Reference, limit: int = _MAX_NEW_TOKENS
) -> Answerer:
    """Greedy answers of PyTorch, of at most `limit` tokens."""
    chat_format = source.chat_format

    def answer(chat: Chat) -> str:
        prompt = prepare_chat(source, chat)
        (arrays,) = trace_reference(reference, [prompt], limit, chat_format)
        return _text(
            chat_format.tokenizer, arrays["greedy_tokens"], chat_format.prompt.stop_token_ids
        )

    return answer


def _text(tokenizer: Tokenizer, tokens: np.ndarray, stop: Sequence[int]) -> str:
    return tokenizer.decode([t for t in tokens.tolist() if t not in stop], skip_special=False)


def ask(question: Question, answer: Answerer) -> str:
    """Return the answer to the last turn, without its thoughts."""
    answers: list[str] = []
    for number in range(len(question.turns)):
        options = question.options()
        if number < len(question.turns) - 1:
            options = replace(options, enable_thinking=False)
        chat = Chat(question.messages(answers), options, question.max_slice_nums, None)
        answers.append(answer(chat).split("</think>")[-1].strip())
    return answers[-1]


_answerer: Answerer  # of this worker process


def _start_worker(candidate: Candidate) -> None:
    import torch

    exit_with_parent()
    torch.set_num_threads(1)
    global _answerer
    _answerer = open_candidate(candidate)


def _answer_item(item: tuple[str, int]) -> Answer:
    """Return (question, right answer, given answer)."""
    question = draw_item(*item)
    last = question.turns[-1]
    return Answer(last.question, last.answer, ask(question, _answerer))


def score_candidates(
    candidates: Sequence[Candidate],
    rows: Sequence[str],
    limit: int,
    jobs: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> AnswerReport:
    """Put the first `limit` items of every row to every candidate, on `jobs` processes."""
    items = [(row, index) for row in rows for index in range(limit)]
    given = {}
    for candidate in candidates:
        given[candidate.name] = list(_answers(candidate, items, jobs, advance))
    scores = {
        (row, name): Score.of([a for (r, _), a in zip(items, answers, strict=True) if r == row])
        for row in rows
        for name, answers in given.items()
    }
    first, *others = given.values()
    agreement = {
        name: float(np.mean([a.given == b.given for a, b in zip(first, answers, strict=True)]))
        for name, answers in zip(list(given)[1:], others, strict=True)
    }
    return AnswerReport(SEED, limit, tuple(rows), tuple(given), scores, agreement)


def _answers(
    candidate: Candidate,
    items: Sequence[tuple[str, int]],
    jobs: int | None,
    advance: Callable[[], None],
) -> Iterator[Answer]:
    workers = min(jobs or os.cpu_count() or 1, len(items))
    with ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(candidate,)) as pool:
        for answer in pool.map(_answer_item, items, chunksize=8):
            advance()
            yield answer
