"""What guessed tokens save: decoding with and without them, on text that is copied and other text.

The answers are given, so that every model answers alike and what counts is only how often text
comes again: a session computes all that it would, and each token is then the given one. A run of so
many tokens counts as the median of all runs of that length, in seconds of the process: a machine
that does other work as well disturbs the sum of an answer more than the session's choices do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, cast

import numpy as np

from benchmarks.machine import describe_machine
from mobile_runtime.engines import EngineOptions
from mobile_runtime.files import write_json
from mobile_runtime.model.model import TextModel
from mobile_runtime.sampling.sampling import Sampler
from mobile_runtime.session import GREEDY, ChatOptions, Session

_WORDS = 60  # of a text that is read and said
_EVERY = 12  # words, one of which an edited copy changes


@dataclass(frozen=True)
class Answered:
    """A prompt and its answer."""

    name: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Figure:
    """Seconds of `tokens` tokens of one text, without and with guesses."""

    bundle: str
    text: str
    tokens: int
    plain_seconds: float
    guessed_seconds: float
    speed: float
    drafted: int
    accepted: int


@dataclass(frozen=True)
class _Given(Sampler):
    """Chooses the tokens of an answer, whatever the logits are."""

    tokens: Sequence[int] = ()

    def next_token(self, logits: np.ndarray, generated: Sequence[int]) -> int:
        return self.tokens[len(generated)]


class _Replay(Session):
    """Answers with given tokens."""

    tokens: Sequence[int] = ()

    def _sampler(self, options: ChatOptions) -> Sampler:
        return _Given(0.0, 0, 1.0, 1.0, tokens=self.tokens)


def answered(words: int = _WORDS) -> list[Answered]:
    """A text said again, said again with changes, and gone on with."""
    text = topics["assignment"].split()
    read, after = text[:words], text[words : 2 * words]
    edited = [word if n % _EVERY else f"new{n}" for n, word in enumerate(read, 1)]
    prompt = " ".join(read)
    return [
        Answered("copied", f"Say it again: {prompt}", prompt),
        Answered("copied with changes", f"Edit it: {prompt}", " ".join(edited)),
        Answered("other text", f"Go on: {prompt}", " ".join(after)),
    ]


class _Timed:
    """A decoder that notes how many tokens each run has, and what runs of each length take."""

    def __init__(self, decoder: TextModel) -> None:
        self._decoder = decoder
        self.runs: list[int] = []
        self.seconds: dict[int, list[float]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def logits_of(self, embeddings: np.ndarray, position: int) -> np.ndarray:
        """As the decoder's."""
        begin = time.process_time()
        logits = self._decoder.logits_of(embeddings, position)
        self.seconds.setdefault(len(embeddings), []).append(time.process_time() - begin)
        self.runs.append(len(embeddings))
        return logits


def measure(session: _Replay, text: Answered, rounds: int) -> Figure:
    """Take the times of one text."""
    session.tokens = session.tokenizer.encode_text(text.answer)
    session.speculate = True
    options = ChatOptions(**{**vars(GREEDY), "max_new_tokens": len(session.tokens)})
    model = session.model
    decoder = _Timed(model.decoder)
    session.model = replace(model, decoder=cast(TextModel, decoder))
    for _ in range(rounds):
        decoder.runs = []
        session.reset()
        stream = session.chat([{"role": "user", "content": text.prompt}], options)
        list(stream)
    session.model = model
    took = {rows: float(np.median(seconds)) for rows, seconds in decoder.seconds.items()}
    plain = took[1] * (len(session.tokens) - 1)  # the first one comes with the prompt
    guessed = sum(took[rows] for rows in decoder.runs)
    counts = stream.statistics
    return Figure(
        session.manifest.format,
        text.name,
        len(session.tokens),
        plain,
        guessed,
        plain / guessed,
        counts.drafted_tokens,
        counts.accepted_tokens,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure bundles; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speculation", description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=_WORDS, help="of a text")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    figures: list[dict[str, Any]] = []
    for bundle in options.bundles:
        session = _Replay.load(bundle, EngineOptions(threads=1))
        assert isinstance(session, _Replay)
        for text in answered(options.words):
            figures.append(asdict(measure(session, text, options.rounds)))
            print(json.dumps(figures[-1]), flush=True)
    if options.json is not None:
        write_json(options.json, {"machine": describe_machine(), "figures": figures})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
