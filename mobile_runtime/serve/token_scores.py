"""Logarithms of the probabilities of an answer's tokens, and where in its text they stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobile_runtime.chat.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenScore:
    """A token that was chosen: its logarithm of the model's probability, before temperature,
    penalties and cuts, and those of the likeliest tokens as (token, logprob), best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class TokenScores:
    """Keeps scores of tokens until their text is sent. `top` is the number of likeliest tokens, or
    None to keep nothing."""

    def __init__(self, tokenizer: Tokenizer, top: int | None) -> None:
        self.tokenizer, self._top = tokenizer, top
        self._new: list[TokenScore] = []
        self._placed: list[tuple[int, int, TokenScore]] = []  # letters of the text, from and to
        self._length = 0

    def add(self, token: int, logits: Any) -> None:
        """Take the next token and the logits (vocab_size,) that it was chosen from."""
        if self._top is None:
            return
        scores = np.asarray(logits, np.float64)
        highest = scores.max()
        total = highest + np.log(np.exp(scores - highest).sum())
        best = np.argsort(-scores, kind="stable")[: self._top]
        top = tuple((int(one), float(scores[one] - total)) for one in best)
        self._new.append(TokenScore(token, float(scores[token] - total), top))

    def place(self, letters: int) -> None:
        """The tokens since the last call made the next letters of the text together: those of one
        character that takes several tokens share it."""
        begin, self._length = self._length, self._length + letters
        self._placed += [(begin, self._length, score) for score in self._new]
        self._new = []

    def within(self, begin: int, end: int) -> tuple[TokenScore, ...]:
        """The tokens, not given yet, that have letters of these; earlier ones are dropped."""
        found = tuple(score for at, to, score in self._placed if at < end and to > begin)
        self._placed = [one for one in self._placed if one[0] >= end]
        return found


def as_logprobs(tokenizer: Tokenizer, scores: Iterable[TokenScore]) -> Any:
    """OpenAI's object for these tokens."""
    return {
        "content": [
            {
                **_entry(tokenizer, score.token, score.logprob),
                "top_logprobs": [_entry(tokenizer, *one) for one in score.top],
            }
            for score in scores
        ],
        "refusal": None,
    }


def _entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    text = data.decode("utf-8", "replace")
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(data)}
