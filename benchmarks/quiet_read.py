"""A loop that reads memory as fast as possible."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(nogil=True, fastmath=True)
def read_all(values: NDArray[np.float64]) -> float:
    """Their sum, in many lanes at once."""
    total = 0.0
    for n in range(values.size):
        total += values[n]
    return total
