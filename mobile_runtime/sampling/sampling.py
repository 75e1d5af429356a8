"""Logits to the next token, in the order and with the rules of Hugging Face's generate().

Repetition penalty, temperature, top-k, top-p, then a draw; temperature 0 takes the best token.
It knows neither the model nor the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobile_runtime.errors import InputError
from mobile_runtime.sampling.xoshiro import MAX_SEED, Xoshiro256StarStar

# Of factors: with others, quotients leave float32.
_LEAST, _MOST = 1e-4, 1e4


@dataclass(frozen=True)
class Sampler:
    """Neutral values: temperature 1, top_k 0 (all tokens), top_p 1, repetition_penalty 1.

    Two samplers with the same seed draw the same tokens from the same logits, also when one of
    them runs on a phone. Without a seed every sampler draws differently.
    """

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int | None = None
    _generator: Xoshiro256StarStar = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bounds = (
            (
                "temperature",
                self.temperature == 0 or _LEAST <= self.temperature <= _MOST,
                f"0 (the best token) or {_LEAST:g} to {_MOST:g}",
            ),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            (
                "repetition_penalty",
                _LEAST <= self.repetition_penalty <= _MOST,
                f"{_LEAST:g} to {_MOST:g}",
            ),
            ("seed", self.seed is None or 0 <= self.seed <= MAX_SEED, "0 to 2⁶⁴ − 1"),
        )
        for name, good, allowed in bounds:
            if not good:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {allowed}.")
        object.__setattr__(self, "_generator", Xoshiro256StarStar.seeded(self.seed))

    def next_token(self, logits: NDArray[np.float32], generated: Sequence[int]) -> int:
        """Choose from logits (V,); `generated` holds the answer's ids so far, not the prompt's.
        Raises `InputError` for logits that are no numbers."""
        if np.isnan(logits).any():
            raise InputError(
                "the model computed logits that are no numbers: weights of the bundle are damaged "
                "or overflow; export it again from intact weights."
            )
        scores = penalize(logits.astype(np.float32), generated, self.repetition_penalty)
        if self.temperature == 0:
            return int(np.argmax(scores))
        ids, probabilities = candidates(scores, self.temperature, self.top_k, self.top_p)
        cumulative = np.cumsum(probabilities)
        point = self._generator.next_fraction() * cumulative[-1]
        drawn = np.searchsorted(cumulative, point, "right")
        return int(ids[min(drawn, len(ids) - 1)])


def penalize(
    scores: NDArray[np.float32], generated: Sequence[int], penalty: float
) -> NDArray[np.float32]:
    """Divide positive and multiply negative scores of the tokens in `generated`, each once."""
    if penalty == 1 or not len(generated):
        return scores
    ids = np.asarray(generated, dtype=np.int64)
    seen = scores[ids]
    scores = scores.copy()
    scores[ids] = np.where(seen < 0, seen * np.float32(penalty), seen / np.float32(penalty))
    return scores


def candidates(
    scores: NDArray[np.float32], temperature: float, top_k: int, top_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids that may be drawn, worst first, and their probabilities (unnormalised sum ≤ 1).

    top_k keeps ties with the k-th best. top_p drops the worst tokens while their probabilities
    sum to at most 1 − top_p, and never the best one.
    """
    scores = scores / np.float32(temperature)
    ids = np.arange(len(scores))
    if 0 < top_k < len(scores):
        ids = np.flatnonzero(scores >= np.partition(scores, -top_k)[-top_k])
    ids = ids[np.argsort(scores[ids], kind="stable")]
    weights = np.exp(scores[ids].astype(np.float64) - scores[ids[-1]])
    probabilities = weights / np.cumsum(weights)[-1]  # added one by one, in this order
    if top_p < 1:
        first = np.searchsorted(np.cumsum(probabilities), 1 - top_p, side="right")
        kept = slice(min(int(first), len(ids) - 1), None)
        ids, probabilities = ids[kept], probabilities[kept]
    return ids, probabilities
