"""Resizing of the last axes by nearest neighbour or linear interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import UnsupportedOperation, register


def positions(size: float, out: int, sampling: str) -> Array:
    """Positions of the `out` samples on an axis of `size` elements, by Core ML's sampling modes."""
    i = np.arange(out, dtype=np.float64)
    match sampling:
        case "STRICT_ALIGN_CORNERS" | "ALIGN_CORNERS":
            if out == 1:
                return np.full(1, (size - 1) / 2 if sampling == "ALIGN_CORNERS" else 0.0)
            where = i * (size - 1) / (out - 1)
        case "DEFAULT":
            where = i * size / out
        case "OFFSET_CORNERS":
            where = (0.5 + i) * max(1, size - 1) / out
        case "UNALIGN_CORNERS":
            where = (i + 0.5) * size / out - 0.5
        case _:
            raise UnsupportedOperation(f"Sampling mode {sampling!r} is not supported.")
    return np.clip(where, 0, size - 1)


def _interpolate(x: Array, axis: int, out: int, sampling: str) -> Array:
    where = positions(x.shape[axis], out, sampling)
    low = np.floor(where).astype(np.intp)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = out
    weight = (where - low).astype(np.float32).reshape(shape)
    return np.asarray(np.take(x, low, axis) * (1 - weight) + np.take(x, high, axis) * weight)


def _resize_linear(x: Array, sizes: dict[int, int], sampling: str) -> Array:
    result = x.astype(np.float32)
    for axis, out in sizes.items():
        result = _interpolate(result, axis, out, sampling)
    return result


def _resize_nearest(x: Array, sizes: dict[int, int], sampling: str) -> Array:
    """The element nearest to each sample, the later one of two. "DEFAULT" takes the samples of
    "UNALIGN_CORNERS": the middles of the outputs."""
    result = x
    for axis, out in sizes.items():
        chosen = "UNALIGN_CORNERS" if sampling == "DEFAULT" else sampling
        where = positions(x.shape[axis], out, chosen)
        result = np.take(result, np.floor(where + 0.5).astype(np.intp), axis)
    return result


def _scaled(x: Array, height: Any, width: Any) -> dict[int, int]:
    return {-2: int(x.shape[-2] * float(height)), -1: int(x.shape[-1] * float(width))}


@register("upsample_nearest_neighbor", result="copied")
def upsample_nearest_neighbor(
    x: Array, scale_factor_height: Any = 1, scale_factor_width: Any = 1
) -> Array:
    """Enlarge the last two axes by the factors; each output takes the element that its beginning
    falls into. Positions follow from the sizes, not from the factors: 3 · 1.12 gives 3 outputs, the
    3 inputs, where PyTorch would repeat the first."""
    result = x
    for axis, out in _scaled(x, scale_factor_height, scale_factor_width).items():
        result = np.take(result, np.arange(out) * x.shape[axis] // out, axis)
    return result


@register("upsample_bilinear")
def upsample_bilinear(
    x: Array,
    scale_factor_height: Any = 1,
    scale_factor_width: Any = 1,
    align_corners: Any = True,
    half_pixel_centers: Any = None,
) -> Array:
    """Enlarge the last two axes by the factors, interpolating."""
    half_pixel = not align_corners if half_pixel_centers is None else half_pixel_centers
    sampling = "UNALIGN_CORNERS" if half_pixel else "DEFAULT"
    if align_corners:
        sampling = "STRICT_ALIGN_CORNERS"
    return _resize_linear(x, _scaled(x, scale_factor_height, scale_factor_width), sampling)


@register("resize_bilinear")
def resize_bilinear(
    x: Array,
    target_size_height: Any = 1,
    target_size_width: Any = 1,
    sampling_mode: Any = "DEFAULT",
) -> Array:
    """Resize the last two axes, interpolating."""
    sizes = {-2: int(target_size_height), -1: int(target_size_width)}
    return _resize_linear(x, sizes, str(sampling_mode))


@register("resize_nearest_neighbor", result="copied")
def resize_nearest_neighbor(x: Array, target_size_height: Any, target_size_width: Any) -> Array:
    """Resize the last two axes; each output takes the element that its middle falls into."""
    return _resize_nearest(x, {-2: int(target_size_height), -1: int(target_size_width)}, "DEFAULT")


@register("resize")
def resize(
    x: Array,
    shape: Array,
    resized_dims: Any,
    interpolation_mode: Any = "LINEAR",
    sampling_mode: Any = "DEFAULT",
) -> Array:
    """Resize the last `resized_dims` axes to the last entries of `shape`; 0 keeps a size."""
    count, mode, sampling = int(resized_dims), str(interpolation_mode), str(sampling_mode)
    wanted = [int(size) for size in np.ravel(shape)][len(shape) - count :]
    sizes = {axis: wanted[axis] or x.shape[axis] for axis in range(-count, 0)}
    if mode == "LINEAR":
        return _resize_linear(x, sizes, sampling)
    if mode == "NEAREST_NEIGHBOR":
        return _resize_nearest(x, sizes, sampling).copy()
    raise UnsupportedOperation(
        f"resize with {mode} is not supported; allowed are LINEAR and NEAREST_NEIGHBOR."
    )
