"""Sliding windows over spatial axes, as convolutions and poolings see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import UnsupportedOperation

Padding = list[tuple[int, int]]


def sizes(values: Any, default: int, axes: int) -> tuple[int, ...]:
    """A parameter with one value per axis, or `default` for all."""
    return (default,) * axes if values is None else tuple(int(v) for v in np.ravel(values))


def padding(
    pad_type: Any,
    pad: Any,
    lengths: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
) -> Padding:
    """(before, after) for each axis. "same" gives ⌈length / stride⌉ outputs; an odd total goes
    after the data, for "same_lower" before. `kernel` sizes include dilation."""
    match str(pad_type):
        case "valid":
            return [(0, 0)] * len(lengths)
        case "custom":
            ends = sizes(pad, 0, 2 * len(lengths))
            return list(zip(ends[::2], ends[1::2], strict=True))
        case "same" | "same_lower" as kind:
            totals = [
                max(0, (-(-n // s) - 1) * s + k - n)
                for n, k, s in zip(lengths, kernel, strides, strict=True)
            ]
            small = [(total // 2, total - total // 2) for total in totals]
            return small if kind == "same" else [(after, before) for before, after in small]
        case other:
            raise UnsupportedOperation(
                f"Padding {other!r} is not known; allowed are valid, custom, same, same_lower."
            )


def windows(
    x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Array:
    """View (n, c, *positions, *kernel) of the spatial axes of `x` (n, c, …)."""
    axes = len(kernel)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, 2 + axes)))
    steps = [slice(None, None, s) for s in (*strides, *dilations)]
    return view[(slice(None), slice(None), *steps)]
