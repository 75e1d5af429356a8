"""Matrix products. Weights may be compressed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..products import multiply, multiply_batch
from ..registry import register
from ..values import Weight, dense


@register("linear", weights=("weight",))
def linear(x: Array, weight: Array | Weight, bias: Array | None = None) -> Array:
    """x · weightᵀ + bias over the last axis; weight (out, in)."""
    flat = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    result = multiply_rows(flat, weight).reshape(*x.shape[:-1], weight.shape[0])
    if bias is not None:
        result += bias
    return result


def multiply_rows(x: Array, weight: Array | Weight) -> Array:
    """x · weightᵀ for x (n, in) and weight (out, in): (n, out), contiguous."""
    return np.ascontiguousarray(multiply(weight, x.T).T)


@register("matmul", weights=("x", "y"))
def matmul(
    x: Array | Weight, y: Array | Weight, transpose_x: Any = False, transpose_y: Any = False
) -> Array:
    """Product of the last two axes, the others broadcast."""
    if isinstance(y, Weight) and len(y.shape) == 2 and not isinstance(x, Weight) and x.ndim > 1:
        left = np.swapaxes(x, -1, -2) if transpose_x else x
        flat = np.ascontiguousarray(left).reshape(-1, left.shape[-1])
        product = multiply_rows(flat, y) if transpose_y else _multiply_columns(flat, y)
        return product.reshape(*left.shape[:-1], product.shape[-1])
    left, right = dense(x), dense(y)
    left = np.swapaxes(left, -1, -2) if transpose_x and left.ndim > 1 else left
    right = np.swapaxes(right, -1, -2) if transpose_y and right.ndim > 1 else right
    return multiply_batch(left, right)


def _multiply_columns(x: Array, weight: Weight) -> Array:
    """x · weight for x (n, in) and weight (in, out)."""
    matrix = weight.kept()
    if matrix is not None:
        return np.asarray(x @ matrix)
    out = np.zeros((x.shape[0], weight.shape[1]), np.float32)
    for begin, end in weight.blocks():
        out += x[:, begin:end] @ weight.rows(begin, end)
    return out


@register("einsum", lists=("values",))
def einsum(values: tuple[Array, ...], equation: Any) -> Array:
    """Sum of products by subscripts; sizes of 1 broadcast."""
    names = str(equation).replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for letters, value in zip(names, values, strict=True):
        for letter, size in zip(letters, value.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    full = [
        np.broadcast_to(value, [sizes[letter] for letter in letters])
        for letters, value in zip(names, values, strict=True)
    ]
    return np.asarray(np.einsum(str(equation), *full, optimize=True))


@register("scaled_dot_product_attention")
def scaled_dot_product_attention(
    query: Array, key: Array, value: Array, attn_mask: Array | None = None
) -> Array:
    """softmax(query · keyᵀ / √d + mask) · value; a boolean mask keeps where it is true."""
    query = query / np.float32(math.sqrt(query.shape[-1]))
    scores = multiply_batch(query, np.swapaxes(key, -1, -2))
    if attn_mask is not None:
        scores = (
            np.where(attn_mask, scores, np.float32(-np.inf))
            if attn_mask.dtype == bool
            else scores + attn_mask
        )
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return multiply_batch(scores, value)
