"""Answers that are held to a schema: whether they fit random ones, and what that costs per token.

Fit is judged by jsonschema, which shares no code with the runtime. Cost is the time in which a
token is chosen, with a schema less without, on given logits: values drawn at random say anything,
so that the mask has all the work that it can have. A state's mask is computed once; later answers
with the same schema find it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.random_schemas import random_schema
from mobile_runtime.chat.stream import ChatStream
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.engines import EngineOptions
from mobile_runtime.files import write_json
from mobile_runtime.sampling.sampling import Sampler
from mobile_runtime.sampling.structured.constraint import Constraint, Schema
from mobile_runtime.sampling.structured.grammar import SchemaError
from mobile_runtime.sampling.structured.vocabulary import Vocabulary
from mobile_runtime.session import ChatOptions, Session

_TOKENS, _MORE = 96, 1500  # of an answer, and of one that cannot be so short
_STOP = "<|im_end|>"
_RECEIPT = {
    "type": "object",
    "properties": {
        "shop": {"type": "string"},
        "currency": {"enum": ["EUR", "USD", "GBP", "JPY"]},
        "paid": {"type": "boolean"},
        "note": {"type": "string", "maxLength": 60},
        "lines": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "article": {"type": "string"},
                    "count": {"type": "integer", "minimum": 1, "maximum": 999},
                    "price": {"type": "number", "minimum": 0},
                },
                "required": ["article", "count", "price"],
            },
        },
    },
    "required": ["shop", "currency", "paid", "note", "lines"],
}


@dataclass
class Fit:
    """Answers to random schemas. `ended_early`: by the limit of tokens, not by the model."""

    schemas: int = 0
    answers: int = 0
    parsed: int = 0
    valid: int = 0
    ended_early: int = 0


@dataclass(frozen=True)
class Cost:
    """Milliseconds that a schema adds to a token: `first` in the first answer, then later."""

    tokens: int
    way: str
    first_median: float
    first_worst: float
    later_median: float
    later_worst: float


def measure_fit(session: Session, count: int, seed: int = 0) -> Fit:
    """Ask for answers that fit `count` random schemas, the best tokens and drawn ones."""
    random, fit = Random(seed), Fit()
    for n in range(count):
        schema = random_schema(random)
        judge = jsonschema.Draft202012Validator(schema)
        judge.check_schema(schema)
        fit.schemas += 1
        question = [{"role": "user", "content": f"Tell me something about {n}."}]
        for temperature in (0.0, 1.5):
            options = ChatOptions(temperature=temperature, seed=n, schema=schema)
            _count(fit, _answered(session, question, options), judge)
    return fit


def _answered(session: Session, question: list[dict[str, str]], options: ChatOptions) -> ChatStream:
    try:
        return session.chat(question, replace(options, max_new_tokens=_TOKENS))
    except SchemaError:
        return session.chat(question, replace(options, max_new_tokens=_MORE))


def _count(fit: Fit, stream: ChatStream, judge: Any) -> None:
    fit.answers += 1
    text = "".join(stream)
    fit.ended_early += stream.finish_reason == "length"
    try:
        value = json.loads(text)
    except ValueError:
        print(f"not JSON: {text!r} for {judge.schema}", flush=True)
        return
    fit.parsed += 1
    if judge.is_valid(value):
        fit.valid += 1
    else:
        print(f"does not fit: {text!r} for {judge.schema}", flush=True)


def measure_cost(tokenizer: Tokenizer, answers: int = 4) -> list[Cost]:
    """What a receipt's schema adds to a token, for the best token and for drawn ones."""
    costs, vocab_size = [], tokenizer.vocab_size
    vocabulary = Vocabulary(tokenizer.written_texts())
    logits = np.random.default_rng(0).normal(scale=3, size=(16, vocab_size)).astype(np.float32)
    for way, temperature, top_k, top_p in (("best", 0.0, 0, 1.0), ("drawn", 0.7, 100, 0.8)):
        sampler = Sampler(temperature, top_k, top_p, 1.0, seed=1)
        schema = Schema.compiled(_RECEIPT, vocabulary, [tokenizer.token_id(_STOP)])
        plain = np.median([_seconds(sampler.next_token, row, []) for row in logits])
        added = [1e3 * (np.array(_answer(schema, sampler, logits)) - plain) for _ in range(answers)]
        first, later = added[0], np.concatenate(added[1:])
        figures = (np.median(first), first.max(), np.median(later), later.max())
        costs.append(Cost(vocab_size, way, *map(float, figures)))
    return costs


def _answer(schema: Schema, sampler: Sampler, logits: np.ndarray) -> list[float]:
    """Seconds of each token of one answer."""
    constraint = Constraint(schema, 2 * _TOKENS)
    generated: list[int] = []
    seconds: list[float] = []
    while not constraint.is_over and not constraint.was_shortened:
        row = logits[len(generated) % len(logits)]
        begin = time.thread_time()
        token = constraint.next_token(sampler, row, generated)
        seconds.append(time.thread_time() - begin)
        generated.append(token)
        if token in schema.stops:
            break
    return seconds


def _seconds(choose: Any, *arguments: Any) -> float:
    begin = time.thread_time()
    choose(*arguments)
    return time.thread_time() - begin


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a bundle, and the cost with other tokenizers; return 1 if an answer did not fit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schemas", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--schemas", type=int, default=1000)
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="tokenizer.json of another bundle, with which the cost is told",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    session = Session.load(options.bundle, EngineOptions(threads=1))
    fit = measure_fit(session, options.schemas)
    print(json.dumps(asdict(fit)), flush=True)
    costs = []
    for path in (options.bundle / "tokenizer" / "tokenizer.json", options.tokenizer):
        if path is not None:
            costs += [asdict(cost) for cost in measure_cost(Tokenizer.load(path))]
    for cost in costs:
        print(json.dumps(cost), flush=True)
    if options.json is not None:
        report = {"machine": describe_machine(), "fit": asdict(fit), "costs": costs}
        write_json(options.json, report)
    return int(fit.valid < fit.answers)


if __name__ == "__main__":
    raise SystemExit(main())
