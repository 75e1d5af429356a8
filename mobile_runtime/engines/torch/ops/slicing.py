"""Parts of tensors along their axes: slices, splits, and writes into a slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobile_runtime.engines.mil.ops import slicing as interpreter
from mobile_runtime.mlprogram.dtypes import Array

from ..forms import form

Mask = Array | None

# The interpreter's own serve tensors as well: these ask for nothing that arrays alone have.
form("slice_by_size")(interpreter.slice_by_size)
form("crop")(interpreter.crop)


def _index(x: Tensor, *arguments: Any) -> tuple[Any, ...]:
    """An index for MIL's begin, end, stride and masks. PyTorch has no negative strides: with one,
    it is the positions along every axis."""
    index = interpreter.slice_index(x.ndim, *arguments)
    if all(isinstance(part, int) or (part.step or 1) > 0 for part in index):
        return index
    kept = [part for part in index if isinstance(part, slice)]
    chosen: list[Any] = []
    for part, size in zip(index, x.shape, strict=True):
        if isinstance(part, int):
            chosen.append(part)
            continue
        shape = [1] * len(kept)
        shape[sum(isinstance(one, Tensor) for one in chosen)] = -1
        positions = list(range(*part.indices(size)))
        chosen.append(torch.tensor(positions, device=x.device, dtype=torch.int64).reshape(shape))
    return tuple(chosen)


@form("slice_by_index")
def slice_by_index(  # noqa: PLR0913 — the operation's own signature
    x: Tensor,
    begin: Array,
    end: Array,
    stride: Mask = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
) -> Tensor:
    """x[begin:end:stride]; a masked begin or end is open, a squeezed axis is dropped."""
    return x[_index(x, begin, end, stride, (begin_mask, end_mask, squeeze_mask))]


@form("slice_update", tensors=("x", "update"))
def slice_update(  # noqa: PLR0913 — the operation's own signature
    x: Tensor,
    update: Tensor,
    begin: Array,
    end: Array,
    stride: Mask = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
    detach: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """`x` with `update` at a slice given as for `slice_by_index`; in place if `detach` is given."""
    index = _index(x, begin, end, stride, (begin_mask, end_mask, squeeze_mask))
    if detach is None:
        x = x.clone()
    else:  # positions along axes, unlike slices, give a copy
        detach(x if any(isinstance(part, Tensor) for part in index) else x[index])
    x[index] = update.reshape(x[index].shape).to(x.dtype)
    return x


@form("split")
def split(
    x: Tensor, axis: Any, num_splits: Any = None, split_sizes: Array | None = None
) -> tuple[Tensor, ...]:
    """Parts along an axis, of equal or of given sizes."""
    if split_sizes is None:
        size, rest = divmod(x.shape[int(axis)], int(num_splits))
        if rest:
            raise ValueError("the parts are not of equal size")
        return torch.split(x, size, int(axis))
    return torch.split(x, np.ravel(split_sizes).tolist(), int(axis))


@form("sliding_windows")
def sliding_windows(x: Tensor, axis: Any, size: Any, stride: Any = 1) -> Tensor:
    """Windows along an axis: it becomes two, window by element."""
    along = int(axis) % x.ndim
    return x.unfold(along, int(size), int(stride)).movedim(-1, along + 1).clone()
