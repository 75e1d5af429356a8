"""Matrix products, which add in float32 on every device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..forms import form
from .wide import alike, wide


@form("linear", tensors=("x", "weight", "bias"))
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias over the last axis; weight (out, in)."""
    x, weight = alike(x, weight)
    return F.linear(x, weight, None if bias is None else bias.to(x.dtype))


@form("matmul", tensors=("x", "y"))
def matmul(x: Tensor, y: Tensor, transpose_x: Any = False, transpose_y: Any = False) -> Any:
    """Product of the last two axes, the others broadcast."""
    if not (x.is_floating_point() and y.is_floating_point()):
        return NotImplemented
    x, y = alike(x, y)
    left = x.mT if transpose_x and x.ndim > 1 else x
    right = y.mT if transpose_y and y.ndim > 1 else y
    return torch.matmul(left, right)


@form("einsum", tensors=("values",))
def einsum(values: tuple[Tensor, ...], equation: Any) -> Any:
    """Sum of products by subscripts; sizes of 1 broadcast."""
    if not all(value.is_floating_point() for value in values):
        return NotImplemented
    result = torch.einsum(str(equation), *map(wide, values))
    return result.clone() if len(values) == 1 else result  # one may be only seen in another order


@form("scaled_dot_product_attention", tensors=("query", "key", "value", "attn_mask"))
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """softmax(query · keyᵀ / √d + mask) · value; a boolean mask keeps where it is true."""
    scores = wide(query) / math.sqrt(query.shape[-1]) @ wide(key).mT
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ wide(value)
