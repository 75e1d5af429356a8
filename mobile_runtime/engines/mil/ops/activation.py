"""Activation functions and softmax."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..blockwise import by_elements, by_rows
from ..registry import UnsupportedOperation, register
from ..special import erf


def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(−x)); exp may overflow to infinity, which gives the right 0."""
    result = np.asarray(np.negative(x))
    np.exp(result, out=result)
    result += 1
    return np.asarray(np.reciprocal(result, out=result))


def _per_channel(parameter: Array, x: Array) -> Array:
    """Shape a vector so that it goes along axis 1 of `x`."""
    return np.reshape(parameter, (-1, *(1,) * (x.ndim - 2)))


@register("sigmoid")
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(−x))."""
    return _sigmoid(x)


@register("silu")
def silu(x: Array) -> Array:
    """x · sigmoid(x)."""
    return by_elements(_silu, x)


def _silu(x: Array) -> Array:
    result = _sigmoid(x)
    result *= x
    return result


@register("gelu")
def gelu(x: Array, mode: Any = "EXACT") -> Array:
    """Gaussian error linear unit in one of its three published forms."""
    return by_elements(partial(_gelu, str(mode)), x)


def _gelu(mode: str, x: Array) -> Array:
    match mode:
        case "EXACT":
            result = erf(x * np.float32(math.sqrt(0.5)))
            result += 1
        case "TANH_APPROXIMATION":
            result = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
            result += 1
        case "SIGMOID_APPROXIMATION":
            result = 2 * _sigmoid(1.702 * x)
        case other:
            raise UnsupportedOperation(
                f"gelu with mode {other!r} is not supported; allowed are EXACT, "
                "TANH_APPROXIMATION and SIGMOID_APPROXIMATION."
            )
    result *= x
    result *= np.float32(0.5)
    return np.asarray(result)


@register("softmax")
def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / Σ exp(x) along `axis`, computed on x − max(x)."""
    along = int(axis) % x.ndim
    if along == x.ndim - 1:
        return by_rows(partial(_softmax, -1), x)
    return _softmax(along, x)


def _softmax(axis: int, x: Array) -> Array:
    result = x - x.max(axis=axis, keepdims=True)
    np.exp(result, out=result)
    result /= result.sum(axis=axis, keepdims=True)
    return np.asarray(result)


@register("relu")
def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


@register("relu6")
def relu6(x: Array) -> Array:
    """x limited to 0 … 6."""
    return np.minimum(np.maximum(x, 0), 6)


@register("clamped_relu")
def clamped_relu(x: Array, alpha: float, beta: float) -> Array:
    """Leaky ReLU of slope `alpha`, not above `beta`."""
    return np.minimum(np.where(x >= 0, x, x * alpha), beta)


@register("thresholded_relu")
def thresholded_relu(x: Array, alpha: float) -> Array:
    """x where it is at least `alpha`, else 0."""
    return np.where(x >= alpha, x, 0)


@register("leaky_relu")
def leaky_relu(x: Array, alpha: float) -> Array:
    """x, times `alpha` where negative."""
    return np.where(x >= 0, x, x * alpha)


@register("prelu")
def prelu(x: Array, alpha: Array) -> Array:
    """x, times the channel's `alpha` where negative."""
    return np.where(x >= 0, x, x * _per_channel(alpha, x))


@register("elu")
def elu(x: Array, alpha: float) -> Array:
    """x, or alpha · (exp(x) − 1) where negative."""
    return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0)))


@register("linear_activation")
def linear_activation(x: Array, alpha: float, beta: float) -> Array:
    """alpha · x + beta."""
    return alpha * x + beta


@register("scaled_tanh")
def scaled_tanh(x: Array, alpha: float, beta: float) -> Array:
    """alpha · tanh(beta · x)."""
    return alpha * np.tanh(beta * x)


@register("sigmoid_hard")
def sigmoid_hard(x: Array, alpha: float, beta: float) -> Array:
    """alpha · x + beta, limited to 0 … 1."""
    return np.minimum(np.maximum(alpha * x + beta, 0), 1)


@register("softplus")
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), computed without overflow."""
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


@register("softplus_parametric")
def softplus_parametric(x: Array, alpha: Array, beta: Array) -> Array:
    """alpha · log(1 + exp(beta · x)), parameters per channel."""
    return np.asarray(_per_channel(alpha, x) * softplus(x * _per_channel(beta, x)))


@register("softsign")
def softsign(x: Array) -> Array:
    """x / (1 + |x|)."""
    return np.asarray(x / (1 + np.abs(x)))
