"""Convolutions over one, two or three spatial axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mobile_runtime.engines.mil.ops.conv import conv_places, is_pointwise, transposed_places
from mobile_runtime.engines.mil.ops.windows import sizes

from ..forms import form
from .wide import alike

_CONV = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@form("conv", tensors=("x", "weight", "bias"))
def conv(  # noqa: PLR0913 — the operation's own signature
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Any = None,
    pad_type: Any = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: Any = 1,
) -> Tensor:
    """Cross-correlation of x (n, c, …) with weight (out, c/groups, …)."""
    x, weight = alike(x, weight)
    bias = None if bias is None else bias.to(x.dtype)
    kernel, axes = tuple(weight.shape[2:]), x.ndim - 2
    step, dilation, ends = conv_places(x.shape[2:], kernel, strides, dilations, (pad_type, pad))
    if is_pointwise(kernel, step, ends, groups):
        return _pointwise(x, weight, bias)
    padded = F.pad(x, np.ravel(ends[::-1]).tolist()) if np.any(ends) else x
    return _CONV[axes - 1](padded, weight, bias, step, 0, dilation, int(groups))


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A kernel of one element: weight · x at each position of each example."""
    columns = x.reshape(*x.shape[:2], -1)
    matrix = weight.reshape(weight.shape[:2])
    if bias is None:
        rows = [matrix @ one for one in columns]
    else:  # the bias is added before the sum is rounded to half
        rows = [torch.addmm(bias[:, None], matrix, one) for one in columns]
    result = rows[0][None] if len(rows) == 1 else torch.stack(rows)
    return result.reshape(x.shape[0], weight.shape[0], *x.shape[2:])


@form("conv_transpose", tensors=("x", "weight", "bias"))
def conv_transpose(  # noqa: PLR0913 — the operation's own signature
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Any = None,
    output_shape: Any = None,
    pad_type: Any = "valid",
    strides: Any = None,
    dilations: Any = None,
    groups: Any = 1,
) -> Tensor:
    """Gradient of `conv` with respect to its input; weight (c, out/groups, …)."""
    x, weight = alike(x, weight)
    axes = x.ndim - 2
    step, dilation = sizes(strides, 1, axes), sizes(dilations, 1, axes)
    _, before, wanted = transposed_places(
        x.shape[2:], weight.shape[2:], step, dilation, (pad_type, pad, output_shape)
    )
    bias = None if bias is None else bias.to(x.dtype)
    whole = _CONV_TRANSPOSE[axes - 1](x, weight, None, step, 0, 0, int(groups), dilation)
    lacks = [max(0, b + w - n) for b, w, n in zip(before, wanted, whole.shape[2:], strict=True)]
    if any(lacks):
        whole = F.pad(whole, [end for lack in lacks[::-1] for end in (0, lack)])
    kept: tuple[Any, ...] = (..., *(slice(b, b + w) for b, w in zip(before, wanted, strict=True)))
    result: Tensor = whole[kept]
    return result.clone() if bias is None else result + bias.reshape(-1, *(1,) * axes)
