"""Rounding of float32 arrays to the values that half precision can represent, in place."""

from __future__ import annotations

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from .number_kernels import round_halves
from .threads import run_blocks

_CAST_BELOW = 256  # elements; for fewer, calling a kernel costs more than numpy's cast
_BLOCK = 1 << 18  # elements; below, a second core costs more than it gives


def round_to_half(x: Array) -> Array:
    """Round float32 `x` to half precision (nearest, ties to even; overflow is ±inf), in place.

    Returns `x`, or a rounded copy if `x` is small, cannot be written or is not contiguous.
    """
    if x.size < _CAST_BELOW:
        return x.astype(np.float16).astype(np.float32)
    if not (x.flags.writeable and x.flags.c_contiguous):
        x = x.copy(order="C")
    flat = x.reshape(-1)
    run_blocks(lambda begin, end: round_halves(flat[begin:end]), flat.size, _BLOCK)
    return x
