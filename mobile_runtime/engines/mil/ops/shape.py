"""Operations that rearrange, join, repeat or make tensors without arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register


def _sizes(values: Any) -> list[int]:
    return [int(value) for value in np.ravel(values)]


@register("reshape", result="viewed")
def reshape(x: Array, shape: Array) -> Array:
    """Give `x` a shape; 0 keeps the size of the same axis of `x`, counted from the last one, and
    is 1 before the first one; −1 is inferred."""
    wanted = _sizes(shape)
    own = (1,) * max(0, len(wanted) - x.ndim) + x.shape[max(0, x.ndim - len(wanted)) :]
    return x.reshape([size or own[n] for n, size in enumerate(wanted)])


@register("reshape_like", result="viewed", lists=("ref_tensors", "begins", "ends", "end_masks"))
def reshape_like(
    x: Array,
    ref_tensors: tuple[Array, ...],
    begins: tuple[Any, ...],
    ends: tuple[Any, ...],
    end_masks: tuple[Any, ...],
) -> Array:
    """Reshape to the sizes of the given ranges of axes of the reference tensors."""
    sizes: list[int] = []
    for tensor, begin, end, mask in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes.extend(tensor.shape[int(begin) : None if mask else int(end)])
    return x.reshape(sizes)


@register("flatten2d", result="viewed")
def flatten2d(x: Array, axis: int = 1) -> Array:
    """Join the axes before `axis` into one, and the other axes into a second."""
    return x.reshape(int(np.prod(x.shape[: int(axis)])), -1)


@register("transpose", result="viewed")
def transpose(x: Array, perm: Array) -> Array:
    """Reorder the axes."""
    return x.transpose(_sizes(perm))


@register("expand_dims", result="viewed")
def expand_dims(x: Array, axes: Array) -> Array:
    """Insert axes of size 1 at the positions that they have in the result."""
    return np.expand_dims(x, tuple(_sizes(axes)))


@register("squeeze", result="viewed")
def squeeze(x: Array, axes: Array | None = None) -> Array:
    """Remove axes of size 1; axes of other sizes stay."""
    chosen = range(x.ndim) if axes is None else _sizes(axes)
    return np.squeeze(x, tuple(axis for axis in chosen if x.shape[axis] == 1))


@register("reverse", result="viewed")
def reverse(x: Array, axes: Array | None = None) -> Array:
    """Reverse along the axes, or along all."""
    return np.flip(x, None if axes is None else tuple(_sizes(axes)))


@register("concat", result="copied", lists=("values",))
def concat(values: tuple[Array, ...], axis: int, interleave: Any = False) -> Array:
    """Join along an existing axis; `interleave` alternates between the tensors."""
    along = int(axis)
    if not values[0].ndim:
        return np.stack(values)
    if not interleave:
        return np.concatenate(values, along)
    along %= values[0].ndim
    shape = list(values[0].shape)
    shape[along] *= len(values)
    return np.stack(values, along + 1).reshape(shape)


@register("stack", result="copied", lists=("values",))
def stack(values: tuple[Array, ...], axis: int) -> Array:
    """Join along a new axis."""
    return np.stack(values, int(axis))


@register("tile", result="copied")
def tile(x: Array, reps: Array) -> Array:
    """Repeat `reps` times along each axis."""
    return np.tile(x, _sizes(reps))


@register("pad", result="copied")
def pad(x: Array, pad: Array, mode: Any = "constant", constant_val: Any = 0) -> Array:
    """Pad the last axes, (before, after) for each: by a constant, reflected, or replicated."""
    given = np.reshape(pad, (-1, 2)).astype(int).tolist()
    widths = [[0, 0]] * (x.ndim - len(given)) + given
    match str(mode):
        case "constant":
            return np.pad(x, widths, constant_values=np.asarray(constant_val).item())
        case "reflect":
            return np.pad(x, widths, mode="reflect")
        case _:
            return np.pad(x, widths, mode="edge")


@register("shape")
def shape(x: Array) -> Array:
    """The sizes of `x`."""
    return np.array(x.shape, np.int32)


@register("fill", result="copied")
def fill(shape: Array, value: Any = 0.0) -> Array:
    """A tensor of one value."""
    return np.full(_sizes(shape), value)


@register("fill_like", result="copied")
def fill_like(ref_tensor: Array, value: Any = 0.0) -> Array:
    """A tensor of one value, shaped like another."""
    return np.full(ref_tensor.shape, value)


@register("range_1d")
def range_1d(end: Array, start: Array, step: Array) -> Array:
    """start, start + step, … up to but without `end`."""
    return np.asarray(np.arange(start.item(), end.item(), step.item()))


@register("one_hot", result="copied")
def one_hot(
    indices: Array,
    one_hot_vector_size: Any,
    axis: int = -1,
    on_value: Any = 1,
    off_value: Any = 0,
) -> Array:
    """A new axis that holds `on_value` at the index and `off_value` elsewhere."""
    along = int(axis) % (indices.ndim + 1)
    position = np.arange(int(one_hot_vector_size))
    position = position.reshape((-1, *(1,) * (indices.ndim - along)))
    return np.asarray(np.where(np.expand_dims(indices, along) == position, on_value, off_value))


@register("band_part", result="copied")
def band_part(x: Array, lower: int = -1, upper: int = -1) -> Array:
    """Zero outside `lower` diagonals below and `upper` above the main one; −1 keeps all."""
    below = np.arange(x.shape[-2])[:, None] - np.arange(x.shape[-1])
    kept = ((int(lower) < 0) | (below <= int(lower))) & ((int(upper) < 0) | (-below <= int(upper)))
    return np.where(kept, x, np.zeros((), x.dtype))


@register("depth_to_space", result="viewed")
def depth_to_space(x: Array, block_size: int) -> Array:
    """(n, b·b·c, h, w) -> (n, c, h·b, w·b): the block's position varies slowest in the channel."""
    n, channels, h, w = x.shape
    b = int(block_size)
    parts = x.reshape(n, b, b, channels // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, channels // (b * b), h * b, w * b)


@register("space_to_depth", result="viewed")
def space_to_depth(x: Array, block_size: int) -> Array:
    """The inverse of `depth_to_space`."""
    n, channels, h, w = x.shape
    b = int(block_size)
    parts = x.reshape(n, channels, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, channels * b * b, h // b, w // b)


@register("pixel_shuffle", result="viewed")
def pixel_shuffle(x: Array, upscale_factor: int) -> Array:
    """(n, c·f·f, h, w) -> (n, c, h·f, w·f): the channel varies slowest, as in PyTorch."""
    n, channels, h, w = x.shape
    f = int(upscale_factor)
    parts = x.reshape(n, channels // (f * f), f, f, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, channels // (f * f), h * f, w * f)


@register("pixel_unshuffle", result="viewed")
def pixel_unshuffle(x: Array, downscale_factor: int) -> Array:
    """The inverse of `pixel_shuffle`."""
    n, channels, h, w = x.shape
    f = int(downscale_factor)
    parts = x.reshape(n, channels, h // f, f, w // f, f).transpose(0, 1, 3, 5, 2, 4)
    return parts.reshape(n, channels * f * f, h // f, w // f)


@register("reverse_sequence", result="copied")
def reverse_sequence(x: Array, lengths: Array, seq_axis: int = 0, batch_axis: int = 0) -> Array:
    """Reverse the first `lengths[i]` elements along `seq_axis` of part i along `batch_axis`."""
    batch, along = int(batch_axis) % x.ndim, int(seq_axis) % x.ndim
    parts = np.moveaxis(x, (batch, along), (0, 1))
    result = parts.copy()
    for part, reversed_part, length in zip(parts, result, np.ravel(lengths).tolist(), strict=True):
        reversed_part[:length] = part[:length][::-1]
    return np.moveaxis(result, (0, 1), (batch, along))


@register("space_to_batch", result="copied")
def space_to_batch(x: Array, block_shape: Array, paddings: Array) -> Array:
    """(n, c, h, w), padded -> (b₀·b₁·n, c, h/b₀, w/b₁): the place in the block varies slowest."""
    b = _sizes(block_shape)
    padded = np.pad(x, [(0, 0), (0, 0), *np.reshape(paddings, (2, 2)).tolist()])
    n, c, h, w = padded.shape
    parts = padded.reshape(n, c, h // b[0], b[0], w // b[1], b[1]).transpose(3, 5, 0, 1, 2, 4)
    return parts.reshape(n * b[0] * b[1], c, h // b[0], w // b[1])


@register("batch_to_space", result="copied")
def batch_to_space(x: Array, block_shape: Array, crops: Array) -> Array:
    """The inverse of `space_to_batch`; `crops` (before, after) are cut off each spatial axis."""
    b = _sizes(block_shape)
    n, c, h, w = x.shape
    parts = x.reshape(b[0], b[1], n // (b[0] * b[1]), c, h, w).transpose(2, 3, 4, 0, 5, 1)
    whole = parts.reshape(n // (b[0] * b[1]), c, h * b[0], w * b[1])
    (top, bottom), (left, right) = np.reshape(crops, (2, 2)).tolist()
    return whole[:, :, top : h * b[0] - bottom, left : w * b[1] - right].copy()
