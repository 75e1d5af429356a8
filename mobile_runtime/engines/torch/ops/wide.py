"""Halves as float32, for what takes several steps: an operation is rounded once, at its end."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """float32 for halves, anything else as it is."""
    return x.float() if x.dtype == torch.float16 else x


def alike(*values: Tensor) -> tuple[Tensor, ...]:
    """Values of one type: halves if all are, else float32."""
    same = all(value.dtype == values[0].dtype for value in values)
    return values if same else tuple(value.float() for value in values)
