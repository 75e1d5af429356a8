"""Random numbers. A seed of 0 or more gives the same numbers at every call; they are numpy's, not
those of a device, which Apple does not publish."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import UnsupportedOperation, register


def _generator(seed: Any) -> np.random.Generator:
    return np.random.default_rng(int(seed) if int(seed) >= 0 else None)


def _sizes(shape: Array) -> tuple[int, ...]:
    return tuple(int(size) for size in np.ravel(shape))


@register("random_uniform")
def random_uniform(shape: Array, low: Any = 0.0, high: Any = 1.0, seed: Any = -1) -> Array:
    """Numbers from `low` up to but without `high`."""
    unit = _generator(seed).random(_sizes(shape), np.float32)
    return np.asarray(np.float32(low) + unit * np.float32(high - low))


@register("random_normal")
def random_normal(shape: Array, mean: Any = 0.0, stddev: Any = 1.0, seed: Any = -1) -> Array:
    """Numbers of a normal distribution."""
    unit = _generator(seed).standard_normal(_sizes(shape), np.float32)
    return np.asarray(np.float32(mean) + unit * np.float32(stddev))


@register("random_bernoulli")
def random_bernoulli(shape: Array, prob: Any = 0.5, seed: Any = -1) -> Array:
    """1 with probability `prob`, else 0."""
    is_one = _generator(seed).random(_sizes(shape), np.float32) < prob
    return np.asarray(is_one, np.float32)


@register("random_categorical")
def random_categorical(x: Array, mode: Any = "logits", size: Any = 1, seed: Any = -1) -> Array:
    """`size` positions along the last axis of `x`, drawn with the probabilities softmax(x) or, in
    the mode "probs", x / Σ x."""
    if str(mode) not in ("logits", "probs"):
        raise UnsupportedOperation(
            f"random_categorical with mode {str(mode)!r} is not supported; allowed are logits and "
            "probs."
        )
    weights = x.astype(np.float64)
    if str(mode) == "logits":
        weights = np.exp(weights - weights.max(-1, keepdims=True))
    ends = weights.cumsum(-1)
    drawn = _generator(seed).random((*x.shape[:-1], int(size))) * ends[..., -1:]
    passed = np.empty(drawn.shape, np.int64)
    for place in np.ndindex(x.shape[:-1]):
        passed[place] = np.searchsorted(ends[place], drawn[place], side="right")
    return np.asarray(np.minimum(passed, x.shape[-1] - 1))
