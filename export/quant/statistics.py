"""Statistics of a layer's inputs from a calibration, for methods that weight errors by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Statistics:
    """The mean of x · xᵀ over inputs x (columns,), (columns, columns), or its diagonal."""

    second_moments: NDArray[np.floating[Any]]
