"""Poolings over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register
from .windows import padding, sizes, windows


@dataclass(frozen=True)
class Pool:
    """Positions of the windows. `ends`: declared padding; `extra`: ceil_mode's, at the end."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    ends: list[tuple[int, int]]
    extra: list[int]

    @property
    def widths(self) -> list[tuple[int, int]]:
        """What is added before and after each axis."""
        return [(b, a + e) for (b, a), e in zip(self.ends, self.extra, strict=True)]

    def windows(self, x: Array, fill: float) -> Array:
        """View (n, c, *positions, *kernel) of `x`, padded with `fill`."""
        padded = np.pad(x, [(0, 0), (0, 0), *self.widths], constant_values=fill)
        return windows(padded, self.kernel, self.strides, (1,) * len(self.kernel))

    def counts(self, shape: Sequence[int], with_padding: bool) -> Array:
        """Count the elements of a tensor (n, c, …) of `shape` (and of its declared padding) in each
        window."""
        ones = np.ones((1, 1, *shape[2:]), np.float32)
        ends = self.ends
        if with_padding:
            ones = np.pad(ones, [(0, 0), (0, 0), *ends], constant_values=1)
            ends = [(0, 0)] * len(self.kernel)
        return Pool(self.kernel, self.strides, ends, self.extra).sum(ones)

    def sum(self, x: Array) -> Array:
        """The sum of each window."""
        return np.asarray(self.windows(x, 0).sum(axis=self.kernel_axes))

    @property
    def kernel_axes(self) -> tuple[int, ...]:
        """The axes of `windows` that run over the kernel."""
        return tuple(range(-len(self.kernel), 0))


def pool_of(
    shape: Sequence[int], kernel_sizes: Any, strides: Any, pad_type: Any, pad: Any, ceil: Any
) -> Pool:
    """The windows of a pooling of a tensor (n, c, …) of `shape`."""
    axes = len(shape) - 2
    kernel, step = list(sizes(kernel_sizes, 1, axes)), sizes(strides, 1, axes)
    ends = padding(pad_type, pad, shape[2:], kernel, step)
    extra = [0] * axes
    if ceil:
        for n, (before, after) in enumerate(ends):
            length = shape[2 + n] + before + after
            count = -(-(length - kernel[n]) // step[n]) + 1
            if (count - 1) * step[n] >= shape[2 + n] + before and before + after > 0:
                count -= 1  # a window that would begin after the data is left out
            if count == 1:
                kernel[n] = min(kernel[n], length)  # what lies beyond counts for nothing
            extra[n] = max(0, (count - 1) * step[n] + kernel[n] - length)
    return Pool(tuple(kernel), step, ends, extra)


@register("max_pool")
def max_pool(
    x: Array,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: Any = "valid",
    pad: Any = None,
    ceil_mode: Any = False,
) -> Array:
    """The largest element of each window."""
    pool = pool_of(x.shape, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return np.asarray(pool.windows(x, -np.inf).max(axis=pool.kernel_axes))


@register("avg_pool")
def avg_pool(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: Any = "valid",
    pad: Any = None,
    exclude_padding_from_average: Any = False,
    ceil_mode: Any = False,
) -> Array:
    """The mean of each window, padding counted as zeros or not at all."""
    pool = pool_of(x.shape, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return pool.sum(x) / pool.counts(x.shape, with_padding=not exclude_padding_from_average)


@register("l2_pool")
def l2_pool(
    x: Array,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: Any = "valid",
    pad: Any = None,
    ceil_mode: Any = False,
) -> Array:
    """The Euclidean norm of each window."""
    pool = pool_of(x.shape, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return np.asarray(np.sqrt(pool.sum(np.square(x))))
