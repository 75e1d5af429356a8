"""Reductions over axes, and running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register


def _log_sum_exp(x: Array, axis: Any, keepdims: bool) -> Array:
    peak = x.max(axis=axis, keepdims=True)
    total = np.log(np.exp(x - peak).sum(axis=axis, keepdims=True)) + peak
    return np.asarray(total if keepdims else np.squeeze(total, axis=axis))


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_l1_norm": lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims),
    "reduce_l2_norm": lambda x, axis, keepdims: np.sqrt(
        np.square(x).sum(axis=axis, keepdims=keepdims)
    ),
    "reduce_log_sum": lambda x, axis, keepdims: np.log(x.sum(axis=axis, keepdims=keepdims)),
    "reduce_log_sum_exp": _log_sum_exp,
    "reduce_sum_square": lambda x, axis, keepdims: np.square(x).sum(axis=axis, keepdims=keepdims),
}


def _register_reductions() -> None:
    def reduction(function: Callable[..., Any]) -> Callable[..., Any]:
        def reduce(x: Array, axes: Array | None = None, keep_dims: Any = False) -> Any:
            over = range(x.ndim) if axes is None else np.ravel(axes)
            return function(x, axis=tuple(int(a) for a in over), keepdims=bool(keep_dims))

        return reduce

    for name, function in _REDUCTIONS.items():
        register(name)(reduction(function))


_register_reductions()


@register("reduce_argmax")
def reduce_argmax(
    x: Array, axis: int = -1, keep_dims: Any = False, output_dtype: Any = "int32"
) -> Array:
    """Index of the first largest value; its type is the declared one."""
    return np.asarray(np.argmax(x, axis=int(axis), keepdims=bool(keep_dims)))


@register("reduce_argmin")
def reduce_argmin(
    x: Array, axis: int = -1, keep_dims: Any = False, output_dtype: Any = "int32"
) -> Array:
    """Index of the first smallest value; its type is the declared one."""
    return np.asarray(np.argmin(x, axis=int(axis), keepdims=bool(keep_dims)))


@register("cumsum")
def cumsum(x: Array, axis: int = 0, exclusive: Any = False, reverse: Any = False) -> Array:
    """Running sum; `exclusive` leaves the element itself out, `reverse` starts at the end."""
    along = int(axis)
    data = np.flip(x, along) if reverse else x
    total = np.cumsum(data, along, dtype=x.dtype)
    if exclusive:
        total = np.roll(total, 1, along)
        first = [slice(None)] * x.ndim
        first[along] = slice(0, 1)
        total[tuple(first)] = 0
    return np.flip(total, along) if reverse else total
