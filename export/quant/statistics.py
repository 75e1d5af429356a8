"""What a calibration observed of a layer's inputs, for methods that weigh errors by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of inputs x (columns,): the mean of x·xᵀ (columns, columns), or its diagonal (columns,)."""

    second_moments: NDArray[np.floating[Any]]
