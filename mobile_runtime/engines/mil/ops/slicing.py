"""Parts of tensors along their axes: slices, splits, and writes into a slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register

Mask = Array | None


def slice_index(
    rank: int, begin: Array, end: Array, stride: Mask, masks: tuple[Mask, ...]
) -> tuple[int | slice, ...]:
    """numpy's index of `rank` axes for MIL's begin, end, stride and (begin, end, squeeze) masks."""
    begin_mask, end_mask, squeeze_mask = (
        (False,) * rank if mask is None else mask.tolist() for mask in masks
    )
    begins, ends = begin.tolist(), end.tolist()
    strides = (1,) * rank if stride is None else stride.tolist()
    index: list[int | slice] = []
    for axis in range(rank):
        if squeeze_mask[axis]:
            index.append(0 if begin_mask[axis] else begins[axis])
            continue
        first = None if begin_mask[axis] else begins[axis]
        last = None if end_mask[axis] else ends[axis]
        index.append(slice(first, last, strides[axis]))
    return tuple(index)


@register("slice_by_index", result="viewed")
def slice_by_index(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    begin: Array,
    end: Array,
    stride: Mask = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
) -> Array:
    """x[begin:end:stride]; a masked begin or end is open, a squeezed axis is dropped."""
    return np.asarray(
        x[slice_index(x.ndim, begin, end, stride, (begin_mask, end_mask, squeeze_mask))]
    )


@register("slice_by_size", result="viewed")
def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """`size` elements from `begin` along each axis; −1 takes the rest."""
    index = []
    for axis, (first, count) in enumerate(zip(begin.tolist(), size.tolist(), strict=True)):
        first += x.shape[axis] if first < 0 else 0
        index.append(slice(first, None if count == -1 else first + count))
    return x[tuple(index)]


@register("slice_update", result="viewed")
def slice_update(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    update: Array,
    begin: Array,
    end: Array,
    stride: Mask = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
    detach: Callable[[Array], None] | None = None,
) -> Array:
    """`x` with `update` at a slice given as for `slice_by_index`; in place if `detach` is given."""
    index = slice_index(x.ndim, begin, end, stride, (begin_mask, end_mask, squeeze_mask))
    if detach is None or not x.flags.writeable:
        x = x.copy()
    else:
        detach(x[index])
    x[index] = update.reshape(x[index].shape)
    return x


@register("split", result="viewed")
def split(
    x: Array, axis: int, num_splits: Any = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    """Parts along an axis, of equal or of given sizes."""
    if split_sizes is None:
        return tuple(np.split(x, int(num_splits), int(axis)))
    return tuple(np.split(x, np.cumsum(split_sizes)[:-1], int(axis)))


@register("sliding_windows", result="copied")
def sliding_windows(x: Array, axis: int, size: int, stride: int = 1) -> Array:
    """Windows along an axis: it becomes two, window by element."""
    along = int(axis) % x.ndim
    windows = np.lib.stride_tricks.sliding_window_view(x, int(size), along)
    windows = np.moveaxis(windows, -1, along + 1)
    step = (slice(None),) * along + (slice(None, None, int(stride)),)
    return windows[step].copy()


@register("crop", result="viewed")
def crop(x: Array, crop_height: Array, crop_width: Array) -> Array:
    """Cut (before, after) elements off the last two axes."""
    (top, bottom), (left, right) = crop_height.tolist(), crop_width.tolist()
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
