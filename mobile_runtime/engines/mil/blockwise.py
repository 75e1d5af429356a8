"""Operations on single elements of large arrays, in blocks that stay in a core's cache, on all
cores. Small arrays are computed at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from .buffers import RESULTS
from .threads import run_blocks

_LARGE = 1 << 18  # elements
_BLOCK = 1 << 16


def by_elements(function: Callable[[Array], Array], x: Array) -> Array:
    """function(x) for a function of single elements that keeps the type."""
    if x.size < _LARGE:
        return np.asarray(function(x))
    out = _result(x.shape, x.dtype)
    source, target = np.ascontiguousarray(x).reshape(-1), out.reshape(-1)

    def work(begin: int, end: int) -> None:
        target[begin:end] = function(source[begin:end])

    run_blocks(work, x.size, _BLOCK)
    return out


def by_rows(function: Callable[[Array], Array], x: Array) -> Array:
    """function(x) for a function of each row, along the last axis, that keeps shape and type."""
    if x.size < _LARGE or x.ndim < 2:
        return np.asarray(function(x))
    out = _result(x.shape, x.dtype)
    source = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    target = out.reshape(source.shape)

    def work(begin: int, end: int) -> None:
        target[begin:end] = function(source[begin:end])

    run_blocks(work, len(source), max(1, _BLOCK // x.shape[-1]))
    return out


def apply(ufunc: np.ufunc, x: Any, y: Any) -> Any:
    """ufunc(x, y), which are broadcast."""
    x, y = np.asarray(x), np.asarray(y)
    if max(x.size, y.size) < _LARGE:
        return ufunc(x, y)
    shape = np.broadcast_shapes(x.shape, y.shape)
    out = _result(shape, ufunc.resolve_dtypes((x.dtype, y.dtype, None))[-1])
    x, y = np.broadcast_to(x, shape), np.broadcast_to(y, shape)
    axis = next((n for n, size in enumerate(shape) if size > 1), 0)
    before = (slice(None),) * axis

    def work(begin: int, end: int) -> None:
        part = (*before, slice(begin, end))
        ufunc(x[part], y[part], out=out[part])

    run_blocks(work, shape[axis], max(1, _BLOCK * shape[axis] // out.size))
    return out


def _result(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return RESULTS.empty(shape) if dtype == np.float32 else np.empty(shape, dtype)
