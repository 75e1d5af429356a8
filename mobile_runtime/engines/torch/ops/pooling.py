"""Poolings over one, two or three spatial axes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mobile_runtime.engines.mil.ops.pooling import Pool, pool_of

from ..forms import form
from .wide import wide

_MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_MEAN = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def _padded(x: Tensor, pool: Pool, fill: float) -> Tensor:
    ends = pool.widths
    return F.pad(x, np.ravel(ends[::-1]).tolist(), value=fill) if np.any(ends) else x


def _mean(x: Tensor, pool: Pool) -> Tensor:
    """The mean of each window, what lies beyond the data counted as 0."""
    return _MEAN[len(pool.kernel) - 1](_padded(x, pool, 0), pool.kernel, pool.strides)


@form("max_pool")
def max_pool(
    x: Tensor,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: Any = "valid",
    pad: Any = None,
    ceil_mode: Any = False,
) -> Tensor:
    """The largest element of each window."""
    pool = pool_of(x.shape, kernel_sizes, strides, pad_type, pad, ceil_mode)
    padded = _padded(x, pool, -torch.inf)
    return _MAX[len(pool.kernel) - 1](padded, pool.kernel, pool.strides)


@form("avg_pool")
def avg_pool(  # noqa: PLR0913 — the operation's own signature
    x: Tensor,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: Any = "valid",
    pad: Any = None,
    exclude_padding_from_average: Any = False,
    ceil_mode: Any = False,
) -> Tensor:
    """The mean of each window, padding counted as zeros or not at all."""
    pool = pool_of(x.shape, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean = _mean(wide(x), pool)
    if not np.any(pool.widths):
        return mean
    counts = pool.counts(x.shape, with_padding=not exclude_padding_from_average)
    return mean * torch.from_numpy(prod(pool.kernel) / counts).to(x.device, mean.dtype)


@form("l2_pool")
def l2_pool(
    x: Tensor,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: Any = "valid",
    pad: Any = None,
    ceil_mode: Any = False,
) -> Tensor:
    """The Euclidean norm of each window."""
    pool = pool_of(x.shape, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return (_mean(wide(x).square(), pool) * prod(pool.kernel)).sqrt()
