"""Quantization of activations, per tensor or per channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register


def _spread(parameter: Array, x: Array, axis: Any) -> Array:
    """A scalar as it is; a vector laid along `axis`."""
    if parameter.ndim == 0:
        return parameter.astype(np.float32)
    shape = [1] * x.ndim
    shape[int(axis)] = parameter.size
    return parameter.reshape(shape).astype(np.float32)


@register("quantize")
def quantize(
    input: Array, scale: Array, output_dtype: Any, zero_point: Array | None = None, axis: Any = None
) -> Array:
    """round(input / scale) + zero_point, limited to the range of the type."""
    codes = np.rint(input / _spread(scale, input, axis))
    if zero_point is not None:
        codes = codes + _spread(zero_point, input, axis)
    limits = np.iinfo(str(output_dtype))
    return np.clip(codes, limits.min, limits.max).astype(limits.dtype)


@register("dequantize")
def dequantize(
    input: Array, scale: Array, zero_point: Array | None = None, axis: Any = None
) -> Array:
    """scale · (input − zero_point)."""
    values = input.astype(np.float32)
    if zero_point is not None:
        values = values - _spread(zero_point, input, axis)
    return values * _spread(scale, input, axis)
