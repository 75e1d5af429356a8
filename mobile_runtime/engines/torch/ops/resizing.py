"""Resizing: positions as the interpreter's own operations have them, read on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobile_runtime.engines.mil.ops.resizing import positions

from ..forms import form
from .wide import wide


def _rows(x: Tensor, axis: int, where: Any) -> Tensor:
    chosen = torch.from_numpy(np.asarray(where, np.int64)).to(x.device)
    return x.index_select(axis % x.ndim, chosen)


def _interpolate(x: Tensor, axis: int, out: int, sampling: str) -> Tensor:
    where = positions(x.shape[axis], out, sampling)
    low = np.floor(where)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = out
    weight = torch.from_numpy((where - low).astype(np.float32)).to(x.device).reshape(shape)
    return _rows(x, axis, low) * (1 - weight) + _rows(x, axis, high) * weight


def _linear(x: Tensor, height: int, width: int, sampling: str) -> Tensor:
    rows = _interpolate(wide(x).float(), -2, height, sampling)
    return _interpolate(rows, -1, width, sampling)


def _scaled(x: Tensor, height: Any, width: Any) -> tuple[int, int]:
    return int(x.shape[-2] * float(height)), int(x.shape[-1] * float(width))


@form("upsample_nearest_neighbor")
def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: Any = 1, scale_factor_width: Any = 1
) -> Tensor:
    """Enlarge the last two axes by the factors; each output takes the element that its beginning
    falls into."""
    height, width = _scaled(x, scale_factor_height, scale_factor_width)
    rows = _rows(x, -2, np.arange(height) * x.shape[-2] // height)
    return _rows(rows, -1, np.arange(width) * x.shape[-1] // width)


@form("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Any = 1,
    scale_factor_width: Any = 1,
    align_corners: Any = True,
    half_pixel_centers: Any = None,
) -> Tensor:
    """Enlarge the last two axes by the factors, interpolating."""
    half_pixel = not align_corners if half_pixel_centers is None else half_pixel_centers
    sampling = "UNALIGN_CORNERS" if half_pixel else "DEFAULT"
    if align_corners:
        sampling = "STRICT_ALIGN_CORNERS"
    return _linear(x, *_scaled(x, scale_factor_height, scale_factor_width), sampling)


@form("resize_bilinear")
def resize_bilinear(
    x: Tensor,
    target_size_height: Any = 1,
    target_size_width: Any = 1,
    sampling_mode: Any = "DEFAULT",
) -> Tensor:
    """Resize the last two axes, interpolating."""
    return _linear(x, int(target_size_height), int(target_size_width), str(sampling_mode))


@form("resize_nearest_neighbor")
def resize_nearest_neighbor(x: Tensor, target_size_height: Any, target_size_width: Any) -> Tensor:
    """Resize the last two axes; each output takes the element that its middle falls into."""
    result = x
    for axis, out in ((-2, int(target_size_height)), (-1, int(target_size_width))):
        where = positions(x.shape[axis], out, "UNALIGN_CORNERS")
        result = _rows(result, axis, np.floor(where + 0.5))
    return result
