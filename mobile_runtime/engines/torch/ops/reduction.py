"""Reductions over axes, and running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..forms import form
from .wide import wide

Axes = tuple[int, ...]


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.mean(axes, keep)


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keep)
    return x


# Of floats.
_REDUCTIONS: dict[str, Callable[[Tensor, Axes, bool], Tensor]] = {
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keep),
    "reduce_mean": _mean,
    "reduce_max": lambda x, axes, keep: x.amax(axes, keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keep),
    "reduce_prod": _product,
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "reduce_log_sum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: x.logsumexp(axes, keep),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keep),
}


def _form_reductions() -> None:
    def reduction(function: Callable[[Tensor, Axes, bool], Tensor]) -> Callable[..., Any]:
        def reduce(x: Tensor, axes: Any = None, keep_dims: Any = False) -> Any:
            over = range(x.ndim) if axes is None else np.ravel(axes)
            if not (x.is_floating_point() and len(over)):
                return NotImplemented
            return function(wide(x), tuple(int(axis) for axis in over), bool(keep_dims))

        return reduce

    for name, function in _REDUCTIONS.items():
        form(name)(reduction(function))


_form_reductions()


@form("reduce_argmax")
def reduce_argmax(
    x: Tensor, axis: Any = -1, keep_dims: Any = False, output_dtype: Any = "int32"
) -> Tensor:
    """Index of the first largest value."""
    return torch.argmax(x, int(axis), bool(keep_dims))


@form("reduce_argmin")
def reduce_argmin(
    x: Tensor, axis: Any = -1, keep_dims: Any = False, output_dtype: Any = "int32"
) -> Tensor:
    """Index of the first smallest value."""
    return torch.argmin(x, int(axis), bool(keep_dims))


@form("cumsum")
def cumsum(x: Tensor, axis: Any = 0, exclusive: Any = False, reverse: Any = False) -> Tensor:
    """Running sum; `exclusive` leaves the element itself out, `reverse` starts at the end."""
    along = int(axis)
    data = wide(x).flip(along) if reverse else wide(x)
    total = data.cumsum(along)
    if exclusive:
        total = total.roll(1, along)
        total.select(along, 0).zero_()
    return total.flip(along) if reverse else total
