"""Order of elements. Equal elements keep their order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..forms import form


@form("argsort")
def argsort(x: Tensor, axis: Any = -1, ascending: Any = False) -> Tensor:
    """Indices that sort along `axis`, largest first unless `ascending`."""
    return torch.argsort(x, dim=int(axis), descending=not ascending, stable=True)


@form("topk")
def topk(  # noqa: PLR0913 — the operation's own signature
    x: Tensor,
    k: Any = 1,
    axis: Any = -1,
    ascending: Any = False,
    sort: Any = True,
    return_indices: Any = True,
    output_indices_dtype: Any = "int32",
) -> Any:
    """The `k` largest (or smallest) values along `axis` and, unless declined, their indices."""
    along = int(axis)
    values, indices = torch.sort(x, dim=along, descending=not ascending, stable=True)
    values, indices = values.narrow(along, 0, int(k)), indices.narrow(along, 0, int(k))
    return (values, indices) if return_indices else values
