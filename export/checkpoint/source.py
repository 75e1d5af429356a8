"""What everything that hands out tensors offers, wherever they come from."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class TensorSource(Protocol):
    """Anything that hands out tensors by name."""

    def read(self, name: str) -> np.ndarray: ...

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray: ...
