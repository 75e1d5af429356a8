"""Normalizations. Statistics are taken in float32, two passes (mean first, then variance)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register


def _standardize(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """(x − mean) / √(variance + epsilon) over `axes`."""
    if x.shape[max(axes) + 1 :] and prod(x.shape[max(axes) + 1 :]) == 1:
        # numpy would add element by element along an axis that is not the last
        return _standardize(x.reshape(x.shape[: max(axes) + 1]), axes, epsilon).reshape(x.shape)
    centred = x - x.mean(axis=axes, keepdims=True, dtype=np.float32)
    variance = np.square(centred).mean(axis=axes, keepdims=True, dtype=np.float32)
    centred *= 1 / np.sqrt(variance + np.float32(epsilon))
    return np.asarray(centred)


def _along(parameter: Array, x: Array, axes: Sequence[int]) -> Array:
    """Shape `parameter`, whose axes are x.shape[axes], to broadcast against `x`."""
    shape = [1] * x.ndim
    for axis in axes:
        shape[axis] = x.shape[axis]
    return np.reshape(parameter, shape)


def _scale_and_shift(
    x: Array, axes: Sequence[int], gamma: Array | None, beta: Array | None
) -> Array:
    if gamma is not None:
        x *= _along(gamma, x, axes)
    if beta is not None:
        x += _along(beta, x, axes)
    return x


@register("layer_norm")
def layer_norm(
    x: Array,
    axes: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: float = 1e-5,
) -> Array:
    """gamma · (x − mean) / √(variance + epsilon) + beta over any axes."""
    chosen = range(x.ndim) if axes is None else np.ravel(axes)
    along = tuple(sorted(int(axis) % x.ndim for axis in chosen))
    return _scale_and_shift(_standardize(x, along, epsilon), along, gamma, beta)


@register("instance_norm")
def instance_norm(
    x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: float = 1e-5
) -> Array:
    """Standardize each channel of each example over its spatial axes."""
    result = _standardize(x, tuple(range(2, x.ndim)), epsilon)
    return _scale_and_shift(result, (1,), gamma, beta)


@register("batch_norm")
def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: float = 1e-5,
) -> Array:
    """Standardize each channel with the given mean and variance."""
    result = np.asarray(x - _along(mean, x, (1,)))
    result *= 1 / np.sqrt(_along(variance, x, (1,)) + np.float32(epsilon))
    return _scale_and_shift(result, (1,), gamma, beta)


@register("l2_norm")
def l2_norm(x: Array, epsilon: float = 1e-6) -> Array:
    """x / √(Σ x² + epsilon) over the last three axes."""
    squares = np.square(x).sum(axis=(-3, -2, -1), keepdims=True)
    return np.asarray(x / np.sqrt(squares + epsilon))


@register("local_response_norm")
def local_response_norm(
    x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """x / (k + alpha/size · Σ x²)^beta, the sum over `size` neighbouring channels."""
    size, channels = int(size), x.shape[1]
    widths = [(0, 0)] * x.ndim
    widths[1] = (size // 2, (size - 1) // 2)
    squares = np.pad(np.square(x), widths)
    total = sum(squares[:, n : n + channels] for n in range(size))
    return np.asarray(x / (k + alpha / size * total) ** beta)
