"""Convolutions over one, two or three spatial axes, as matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..products import multiply
from ..registry import register
from ..values import Weight, dense
from .windows import padding, sizes, windows


@register("conv", weights=("weight",))
def conv(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    weight: Array | Weight,
    bias: Array | None = None,
    strides: Any = None,
    pad_type: Any = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: Any = 1,
) -> Array:
    """Cross-correlation of x (n, c, …) with weight (out, c/groups, …)."""
    kernel, axes = weight.shape[2:], x.ndim - 2
    step, dilation, ends = conv_places(x.shape[2:], kernel, strides, dilations, (pad_type, pad))
    if is_pointwise(kernel, step, ends, groups):
        result = _pointwise(x, weight)
    else:
        padded = np.pad(x, [(0, 0), (0, 0), *ends])
        result = _grouped(windows(padded, kernel, step, dilation), dense(weight), int(groups))
    if bias is not None:
        result += bias.reshape(-1, *(1,) * axes)
    return result


def conv_places(
    lengths: Sequence[int],
    kernel: Sequence[int],
    strides: Any,
    dilations: Any,
    pads: tuple[Any, Any],
) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    """Strides and dilations by axis, and what is padded before and after each. `pads` are pad_type
    and pad."""
    axes = len(lengths)
    step, dilation = sizes(strides, 1, axes), sizes(dilations, 1, axes)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    return step, dilation, padding(*pads, lengths, reach, step)


def is_pointwise(
    kernel: Sequence[int], step: Sequence[int], ends: Sequence[tuple[int, int]], groups: Any
) -> bool:
    """Whether a convolution is one matrix product at each position."""
    return prod(kernel) == 1 and int(groups) == 1 and prod(step) == 1 and not np.any(ends)


def _pointwise(x: Array, weight: Array | Weight) -> Array:
    """A kernel of one element: weight · x at each position of each example."""
    examples, inputs, rows = x.shape[0], x.shape[1], weight.shape[0]
    if examples == 1:
        return multiply(weight, x.reshape(inputs, -1)).reshape(1, rows, *x.shape[2:])
    columns = np.moveaxis(x, 0, 1).reshape(inputs, -1)
    out = multiply(weight, columns).reshape(rows, examples, *x.shape[2:])
    return np.ascontiguousarray(np.moveaxis(out, 1, 0))


def _grouped(view: Array, weight: Array, groups: int) -> Array:
    """Multiply windows (n, c, *positions, *kernel) with the weights of each group."""
    axes = weight.ndim - 2
    n, positions = view.shape[0], view.shape[2 : 2 + axes]
    inputs, outputs = view.shape[1] // groups, weight.shape[0] // groups
    out = np.empty((n, weight.shape[0], prod(positions)), np.float32)
    order = (0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
    for group in range(groups):
        part = view[:, group * inputs : (group + 1) * inputs].transpose(order)
        matrix = weight[group * outputs : (group + 1) * outputs].reshape(outputs, -1)
        columns = part.reshape(n, prod(positions), -1)
        out[:, group * outputs : (group + 1) * outputs] = matrix @ columns.swapaxes(1, 2)
    return out.reshape(n, weight.shape[0], *positions)


@register("conv_transpose")
def conv_transpose(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    weight: Array,
    bias: Array | None = None,
    pad: Any = None,
    output_shape: Any = None,
    pad_type: Any = "valid",
    strides: Any = None,
    dilations: Any = None,
    groups: Any = 1,
) -> Array:
    """Gradient of `conv` with respect to its input; weight (c, out/groups, …)."""
    kernel, axes = weight.shape[2:], x.ndim - 2
    step, dilation = sizes(strides, 1, axes), sizes(dilations, 1, axes)
    full, before, wanted = transposed_places(
        x.shape[2:], kernel, step, dilation, (pad_type, pad, output_shape)
    )
    length = [max(f, b + w) for f, b, w in zip(full, before, wanted, strict=True)]
    out = np.zeros((x.shape[0], weight.shape[1] * int(groups), *length), np.float32)
    for number, position in enumerate(product(*(range(k) for k in kernel))):
        target: list[Any] = [...]
        for p, d, n, s in zip(position, dilation, x.shape[2:], step, strict=True):
            target.append(slice(p * d, p * d + (n - 1) * s + 1, s))
        taps = weight.reshape(*weight.shape[:2], -1)[..., number]
        out[tuple(target)] += _mix_channels(x, taps, int(groups))
    kept: list[Any] = [..., *(slice(b, b + w) for b, w in zip(before, wanted, strict=True))]
    result: Array = out[tuple(kept)]
    if bias is not None:
        result += bias.reshape(-1, *(1,) * axes)
    return result


def transposed_places(
    lengths: Sequence[int],
    kernel: Sequence[int],
    step: Sequence[int],
    dilation: Sequence[int],
    ends: tuple[Any, Any, Any],
) -> tuple[list[int], list[int], list[int]]:
    """Sizes of a transposed convolution without padding, and where in them the result begins, and
    its sizes. `ends` are pad_type, pad and output_shape."""
    pad_type, pad, output_shape = ends
    full = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(lengths, step, kernel, dilation, strict=True)
    ]
    if str(pad_type).startswith("same"):
        wanted = [n * s for n, s in zip(lengths, step, strict=True)]
        before = [max(0, f - w) // 2 for f, w in zip(full, wanted, strict=True)]
    else:
        around = padding(pad_type, pad, full, kernel, step)
        before = [first for first, _ in around]
        wanted = [f - sum(end) for f, end in zip(full, around, strict=True)]
    if output_shape is not None:
        wanted = [int(size) for size in np.ravel(output_shape)[2:]]
    return full, before, wanted


def _mix_channels(x: Array, taps: Array, groups: int) -> Array:
    """Multiply the channels of x (n, c, …) by taps (c, out/groups), group by group."""
    n, channels = x.shape[:2]
    columns = x.reshape(n, groups, channels // groups, -1)
    matrix = taps.reshape(groups, channels // groups, -1).swapaxes(1, 2)
    return np.asarray(matrix @ columns).reshape(n, -1, *x.shape[2:])
