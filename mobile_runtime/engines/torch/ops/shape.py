"""Operations that rearrange, join, repeat or make tensors without arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mobile_runtime.engines.mil.ops import shape as interpreter
from mobile_runtime.mlprogram.dtypes import Array

from ..forms import form

# The interpreter's own serve tensors as well: these ask for nothing that arrays alone have.
form("reshape")(interpreter.reshape)
form("flatten2d")(interpreter.flatten2d)
form("shape")(interpreter.shape)


def _sizes(values: Any) -> list[int]:
    return [int(value) for value in np.ravel(values)]


@form("transpose")
def transpose(x: Tensor, perm: Array) -> Tensor:
    """Reorder the axes."""
    return x.permute(_sizes(perm))


@form("expand_dims")
def expand_dims(x: Tensor, axes: Array) -> Tensor:
    """Insert axes of size 1 at the positions that they have in the result."""
    added = _sizes(axes)
    for axis in sorted(axis % (x.ndim + len(added)) for axis in added):
        x = x.unsqueeze(axis)
    return x


@form("squeeze")
def squeeze(x: Tensor, axes: Array | None = None) -> Tensor:
    """Remove axes of size 1; axes of other sizes stay."""
    return x.squeeze() if axes is None else x.squeeze(_sizes(axes))


@form("reverse")
def reverse(x: Tensor, axes: Array | None = None) -> Tensor:
    """Reverse along the axes, or along all."""
    return x.flip(list(range(x.ndim)) if axes is None else _sizes(axes))


@form("concat", tensors=("values",))
def concat(values: tuple[Tensor, ...], axis: Any, interleave: Any = False) -> Tensor:
    """Join along an existing axis; `interleave` alternates between the tensors."""
    along = int(axis)
    if not values[0].ndim:
        return torch.stack(values)
    if not interleave:
        return torch.cat(values, along)
    along %= values[0].ndim
    shape = list(values[0].shape)
    shape[along] *= len(values)
    return torch.stack(values, along + 1).reshape(shape)


@form("stack", tensors=("values",))
def stack(values: tuple[Tensor, ...], axis: Any) -> Tensor:
    """Join along a new axis."""
    return torch.stack(values, int(axis))


@form("tile")
def tile(x: Tensor, reps: Array) -> Tensor:
    """Repeat `reps` times along each axis."""
    return x.repeat(_sizes(reps))


@form("pad")
def pad(x: Tensor, pad: Array, mode: Any = "constant", constant_val: Any = 0) -> Any:
    """Pad the last axes, (before, after) for each, by a constant."""
    if str(mode) != "constant":
        return NotImplemented
    ends = np.reshape(pad, (-1, 2))[::-1].ravel().tolist()
    return F.pad(x, ends, value=np.asarray(constant_val).item())


@form("fill_like", tensors=("ref_tensor",))
def fill_like(ref_tensor: Tensor, value: Any = 0.0) -> Tensor:
    """A tensor of one value, shaped like another."""
    return torch.full(ref_tensor.shape, np.asarray(value).item(), device=ref_tensor.device)


@form("band_part")
def band_part(x: Tensor, lower: Any = -1, upper: Any = -1) -> Tensor:
    """Zero outside `lower` diagonals below and `upper` above the main one; −1 keeps all."""
    result = x.clone() if int(upper) < 0 else x.tril(int(upper))
    return result if int(lower) < 0 else result.triu(-int(lower))


@form("depth_to_space")
def depth_to_space(x: Tensor, block_size: Any) -> Tensor:
    """(n, b·b·c, h, w) -> (n, c, h·b, w·b): the block's position varies slowest in the channel."""
    n, channels, h, w = x.shape
    b = int(block_size)
    parts = x.reshape(n, b, b, channels // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, channels // (b * b), h * b, w * b)


@form("space_to_depth")
def space_to_depth(x: Tensor, block_size: Any) -> Tensor:
    """The inverse of `depth_to_space`."""
    n, channels, h, w = x.shape
    b = int(block_size)
    parts = x.reshape(n, channels, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, channels * b * b, h // b, w // b)


@form("pixel_shuffle")
def pixel_shuffle(x: Tensor, upscale_factor: Any) -> Tensor:
    """(n, c·f·f, h, w) -> (n, c, h·f, w·f): the channel varies slowest."""
    return F.pixel_shuffle(x, int(upscale_factor))


@form("pixel_unshuffle")
def pixel_unshuffle(x: Tensor, downscale_factor: Any) -> Tensor:
    """The inverse of `pixel_shuffle`."""
    return F.pixel_unshuffle(x, int(downscale_factor))
