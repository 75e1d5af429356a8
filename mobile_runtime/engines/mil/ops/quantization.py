"""Quantization of activations, per tensor or per channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import UnsupportedOperation, register
from .conv import conv


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


@register("conv_quantized")
def conv_quantized(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    weight: Array,
    quantization_type: Any,
    quant_scale: Array,
    quant_bias: Array,
    nbits: Any = 8,
    bias: Array | None = None,
    strides: Any = None,
    pad_type: Any = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: Any = 1,
) -> Array:
    """Convolution with the weight quant_scale · weight + quant_bias, one pair for each output
    channel or for all."""
    if str(quantization_type) != "linear":
        raise UnsupportedOperation(
            f"conv_quantized of type {str(quantization_type)!r} is not supported; linear is."
        )
    along = (-1, *(1,) * (weight.ndim - 1))
    values = weight.astype(np.float32) * np.reshape(quant_scale, along)
    values = values + np.reshape(quant_bias, along)
    added = None if bias is None else bias.astype(np.float32)
    return conv(x, values, added, strides, pad_type, pad, dilations, groups)
