"""Reading and writing elements by index. Negative indices count from the end, unless the program
asks for indices to be validated: then they are refused, as in Core ML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.dtypes import Array

from ..registry import UnsupportedOperation, register

Index = tuple[Any, ...]


def _assign(target: Array, index: Index, updates: Array) -> None:
    target[index] = updates


_MODES: dict[str, Callable[[Array, Index, Array], None]] = {
    "update": _assign,
    "add": np.add.at,
    "sub": np.subtract.at,
    "mul": np.multiply.at,
    "div": np.divide.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _scattered(data: Array, index: Index, updates: Array, mode: Any) -> Array:
    if str(mode) not in _MODES:
        raise UnsupportedOperation(
            f"Scatter mode {str(mode)!r} is not known; allowed are {', '.join(_MODES)}."
        )
    out = data.copy()
    _MODES[str(mode)](out, index, updates)
    return out


def _along(indices: Array, axis: int) -> Index:
    """Index of the elements at `indices` along `axis`, at their own position elsewhere."""
    index: list[Array] = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    index[axis] = indices
    return tuple(index)


def _check(indices: Array, size: int, validate: Any) -> None:
    """Raises `InputError` if indices that are to be validated are negative or beyond the end."""
    if validate and indices.size and not 0 <= indices.min() <= indices.max() < size:
        raise InputError(
            f"its indices go from {indices.min()} to {indices.max()}, and it takes 0 to "
            f"{size - 1}; give such indices."
        )


def _check_vectors(indices: Array, sizes: tuple[int, ...], validate: Any) -> None:
    for part, size in zip(np.moveaxis(indices, -1, 0), sizes, strict=False):
        _check(part, size, validate)


@register("gather", result="copied")
def gather(
    x: Array, indices: Array, axis: int = 0, batch_dims: int = 0, validate_indices: Any = False
) -> Array:
    """Slices of `x` along `axis`, in the order of `indices`; leading batch axes in common."""
    batch, along = int(batch_dims), int(axis) % x.ndim
    _check(indices, x.shape[along], validate_indices)
    if not batch:
        return np.take(x, indices, along)
    rows = x.reshape(-1, *x.shape[batch:])
    chosen = indices.reshape(rows.shape[0], *indices.shape[batch:])
    parts = [np.take(row, index, along - batch) for row, index in zip(rows, chosen, strict=True)]
    return np.stack(parts).reshape(*x.shape[:batch], *parts[0].shape)


@register("gather_along_axis", result="copied")
def gather_along_axis(
    x: Array, indices: Array, axis: int = 0, validate_indices: Any = False
) -> Array:
    """Elements of `x` whose position along `axis` is given, element by element."""
    _check(indices, x.shape[int(axis)], validate_indices)
    return np.take_along_axis(x, indices, int(axis))


@register("gather_nd", result="copied")
def gather_nd(
    x: Array, indices: Array, batch_dims: int = 0, validate_indices: Any = False
) -> Array:
    """Slices of `x` at the index vectors along the last axis of `indices`."""
    batch = int(batch_dims)
    _check_vectors(indices, x.shape[batch:], validate_indices)
    own = np.ogrid[tuple(slice(size) for size in x.shape[:batch])] if batch else ()
    spread = [grid.reshape(grid.shape + (1,) * (indices.ndim - 1 - batch)) for grid in own]
    return np.asarray(x[(*spread, *np.moveaxis(indices, -1, 0))])


@register("scatter")
def scatter(
    data: Array,
    indices: Array,
    updates: Array,
    axis: int = 0,
    mode: Any = "add",
    validate_indices: Any = False,
) -> Array:
    """Combine `updates` into the slices of `data` along `axis` that `indices` names."""
    _check(indices, data.shape[int(axis)], validate_indices)
    return _scattered(data, (slice(None),) * (int(axis) % data.ndim) + (indices,), updates, mode)


@register("scatter_along_axis")
def scatter_along_axis(
    data: Array,
    indices: Array,
    updates: Array,
    axis: int = 0,
    mode: Any = "add",
    validate_indices: Any = False,
) -> Array:
    """Combine `updates` into `data`, element by element, at positions along `axis`."""
    _check(indices, data.shape[int(axis)], validate_indices)
    return _scattered(data, _along(indices, int(axis) % data.ndim), updates, mode)


@register("scatter_nd")
def scatter_nd(
    data: Array, indices: Array, updates: Array, mode: Any = "add", validate_indices: Any = False
) -> Array:
    """Combine `updates` into the slices of `data` at the index vectors of `indices`."""
    _check_vectors(indices, data.shape, validate_indices)
    return _scattered(data, tuple(np.moveaxis(indices, -1, 0)), updates, mode)
