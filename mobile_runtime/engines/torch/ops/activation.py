"""Activation functions and softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..forms import form
from .wide import wide


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """Shape a vector so that it goes along axis 1 of `x`."""
    return parameter.reshape(-1, *(1,) * (x.ndim - 2))


@form("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(−x))."""
    return torch.sigmoid(x)


@form("silu")
def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x)."""
    return F.silu(x)


@form("gelu")
def gelu(x: Tensor, mode: Any = "EXACT") -> Any:
    """Gaussian error linear unit in one of its three published forms."""
    match str(mode):
        case "EXACT":
            return F.gelu(x)
        case "TANH_APPROXIMATION":
            return F.gelu(x, approximate="tanh")
        case "SIGMOID_APPROXIMATION":
            return wide(x) * torch.sigmoid(1.702 * wide(x))
        case _:
            return NotImplemented


@form("softmax")
def softmax(x: Tensor, axis: Any = -1) -> Tensor:
    """exp(x) / Σ exp(x) along `axis`."""
    return torch.softmax(x, int(axis))


@form("relu")
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.relu(x)


@form("relu6")
def relu6(x: Tensor) -> Tensor:
    """x limited to 0 … 6."""
    return torch.clamp(x, 0, 6)


@form("clamped_relu")
def clamped_relu(x: Tensor, alpha: Any, beta: Any) -> Tensor:
    """Leaky ReLU of slope `alpha`, not above `beta`."""
    return leaky_relu(x, alpha).clamp(max=float(beta))


@form("thresholded_relu")
def thresholded_relu(x: Tensor, alpha: Any) -> Tensor:
    """x where it is at least `alpha`, else 0."""
    return torch.where(wide(x) >= float(alpha), x, torch.zeros_like(x))


@form("leaky_relu")
def leaky_relu(x: Tensor, alpha: Any) -> Tensor:
    """x, times `alpha` where negative."""
    x = wide(x)
    return torch.where(x >= 0, x, x * float(alpha))


@form("prelu", tensors=("x", "alpha"))
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """x, times the channel's `alpha` where negative."""
    x = wide(x)
    return torch.where(x >= 0, x, x * _per_channel(alpha, x))


@form("elu")
def elu(x: Tensor, alpha: Any) -> Tensor:
    """x, or alpha · (exp(x) − 1) where negative."""
    return F.elu(wide(x), float(alpha))


@form("linear_activation")
def linear_activation(x: Tensor, alpha: Any, beta: Any) -> Tensor:
    """alpha · x + beta."""
    return float(alpha) * wide(x) + float(beta)


@form("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: Any, beta: Any) -> Tensor:
    """alpha · tanh(beta · x)."""
    return float(alpha) * torch.tanh(float(beta) * wide(x))


@form("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: Any, beta: Any) -> Tensor:
    """alpha · x + beta, limited to 0 … 1."""
    return linear_activation(x, alpha, beta).clamp(0, 1)


@form("softplus")
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), computed without overflow."""
    x = wide(x)
    return torch.log1p(torch.exp(-x.abs())) + torch.relu(x)


@form("softplus_parametric", tensors=("x", "alpha", "beta"))
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha · log(1 + exp(beta · x)), parameters per channel."""
    x = wide(x)
    return _per_channel(alpha, x) * softplus(x * _per_channel(beta, x))


@form("softsign")
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    x = wide(x)
    return x / (1 + x.abs())
