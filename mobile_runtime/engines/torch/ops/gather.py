"""Reading elements by index. Indices are checked before the device sees them: a GPU that reads
beyond the end of a tensor stops for the whole process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mobile_runtime.mlprogram.dtypes import Array

from ..forms import form


def _positions(indices: Array | Tensor, size: int, validate: Any, x: Tensor) -> Tensor | None:
    """Indices from 0 on, on the device of `x`. None if one is not allowed: the interpreter's own
    operation says so in its words."""
    if not indices.shape or 0 not in indices.shape:
        least, most = int(indices.min()), int(indices.max())
        if not (0 if validate else -size) <= least <= most < size:
            return None
    whole = torch.as_tensor(indices).to(x.device, torch.int64)
    return torch.where(whole < 0, whole + size, whole)


@form("gather", either=("indices",))
def gather(
    x: Tensor,
    indices: Array | Tensor,
    axis: Any = 0,
    batch_dims: Any = 0,
    validate_indices: Any = False,
) -> Any:
    """Slices of `x` along `axis`, in the order of `indices`."""
    along = int(axis) % x.ndim
    found = _positions(indices, x.shape[along], validate_indices, x)
    if int(batch_dims) or found is None:
        return NotImplemented
    rows = x.index_select(along, found.reshape(-1))
    return rows.reshape(*x.shape[:along], *found.shape, *x.shape[along + 1 :])


@form("gather_along_axis", either=("indices",))
def gather_along_axis(
    x: Tensor, indices: Array | Tensor, axis: Any = 0, validate_indices: Any = False
) -> Any:
    """Elements of `x` whose position along `axis` is given, element by element."""
    found = _positions(indices, x.shape[int(axis)], validate_indices, x)
    return NotImplemented if found is None else torch.take_along_dim(x, found, int(axis))


@form("gather_nd", either=("indices",))
def gather_nd(
    x: Tensor, indices: Array | Tensor, batch_dims: Any = 0, validate_indices: Any = False
) -> Any:
    """Slices of `x` at the index vectors along the last axis of `indices`, within each of the first
    `batch_dims` axes."""
    batch = int(batch_dims)
    found = [
        _positions(indices[..., n], x.shape[batch + n], validate_indices, x)
        for n in range(indices.shape[-1])
    ]
    if not found or any(positions is None for positions in found):
        return NotImplemented
    spread = (1,) * (indices.ndim - 1 - batch)
    own = [
        torch.arange(size, device=x.device).reshape(
            *(-1 if n == m else 1 for n in range(batch)), *spread
        )
        for m, size in enumerate(x.shape[:batch])
    ]
    return x[(*own, *found)]
