"""Order of elements. Equal elements keep their order."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register


def _order(x: Array, axis: int, ascending: Any) -> Array:
    """Indices that sort `x`. Descending is ascending of the reversed axis, read backwards, so
    that equal elements stay in order and integers need no negation."""
    if ascending:
        return np.argsort(x, axis, kind="stable")
    last = x.shape[axis] - 1
    return np.flip(last - np.argsort(np.flip(x, axis), axis, kind="stable"), axis)


@register("argsort")
def argsort(x: Array, axis: int = -1, ascending: Any = False) -> Array:
    """Indices that sort along `axis`, largest first unless `ascending`."""
    return _order(x, int(axis), ascending)


@register("topk", result="copied")
def topk(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    k: int = 1,
    axis: int = -1,
    ascending: Any = False,
    sort: Any = True,
    return_indices: Any = True,
    output_indices_dtype: Any = "int32",
) -> Any:
    """The `k` largest (or smallest) values along `axis` and, unless declined, their indices."""
    along = int(axis)
    indices = np.take(_order(x, along, ascending), np.arange(int(k)), along)
    values = np.take_along_axis(x, indices, along)
    return (values, indices) if return_indices else values


@register("non_zero")
def non_zero(x: Array) -> Array:
    """Indices of the elements that are not zero, one row each."""
    return np.argwhere(x)
