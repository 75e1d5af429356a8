"""Normalizations. Statistics are taken in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..forms import form
from .wide import wide


def _along(parameter: Tensor, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Shape `parameter`, whose axes are x.shape[axes], to broadcast against `x`."""
    return parameter.reshape([x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)])


def _standardize(x: Tensor, axes: Sequence[int], epsilon: Any) -> Tensor:
    """(x − mean) / √(variance + epsilon) over `axes`."""
    last = range(x.ndim - len(axes), x.ndim)
    moved = wide(x).movedim(tuple(axes), tuple(last))
    result = F.layer_norm(moved, moved.shape[last.start :], eps=float(epsilon))
    return result.movedim(tuple(last), tuple(axes))


def _scale_and_shift(
    x: Tensor, axes: Sequence[int], gamma: Tensor | None, beta: Tensor | None
) -> Tensor:
    if gamma is not None:
        x = x * _along(gamma, x, axes)
    return x if beta is None else x + _along(beta, x, axes)


@form("layer_norm", tensors=("x", "gamma", "beta"))
def layer_norm(
    x: Tensor,
    axes: Any = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Any = 1e-5,
) -> Tensor:
    """gamma · (x − mean) / √(variance + epsilon) + beta over any axes."""
    chosen = range(x.ndim) if axes is None else np.ravel(axes)
    along = sorted(int(axis) % x.ndim for axis in chosen)
    return _scale_and_shift(_standardize(x, along, epsilon), along, gamma, beta)


@form("instance_norm", tensors=("x", "gamma", "beta"))
def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Any = 1e-5
) -> Tensor:
    """Standardize each channel of each example over its spatial axes."""
    result = _standardize(x, range(2, x.ndim), epsilon)
    return _scale_and_shift(result, (1,), gamma, beta)


@form("batch_norm", tensors=("x", "mean", "variance", "gamma", "beta"))
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Any = 1e-5,
) -> Tensor:
    """Standardize each channel with the given mean and variance."""
    scale = 1 / torch.sqrt(_along(wide(variance), x, (1,)) + float(epsilon))
    result = (wide(x) - _along(mean, x, (1,))) * scale
    return _scale_and_shift(result, (1,), gamma, beta)


@form("l2_norm")
def l2_norm(x: Tensor, epsilon: Any = 1e-6) -> Tensor:
    """x / √(Σ x² + epsilon) over the last three axes."""
    squares = wide(x).square().sum((-3, -2, -1), keepdim=True)
    return wide(x) / torch.sqrt(squares + float(epsilon))
