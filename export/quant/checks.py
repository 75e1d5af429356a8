"""Checks of a weight matrix before any method quantizes it.

Every error names the tensor and says what to do. No check depends on a method.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mobile_runtime.errors import InputError

FLOAT16_MAX = 65504.0
_TYPES = tuple(np.dtype(kind) for kind in (ml_dtypes.bfloat16, np.float16, np.float32))


def check_matrix(values: NDArray[Any], rows: int, name: str) -> None:
    """Refuse all but non-empty bfloat16, float16 or float32 matrices of at most `rows` rows."""
    if values.dtype not in _TYPES:
        raise InputError(
            f"{name} has type {values.dtype}; only bfloat16, float16 and float32 can be quantized."
        )
    if values.ndim != 2 or not values.size:
        raise InputError(
            f"{name} has shape {values.shape}; only a non-empty matrix can be quantized."
        )
    if rows < values.shape[0]:
        raise InputError(
            f"{name} has {values.shape[0]} rows and was to be padded to {rows}; pad to more rows."
        )


def check_bits(bits: int, least: int, name: str) -> None:
    """Refuse widths outside least … 8."""
    if bits not in range(least, 9):
        raise InputError(f"{name} was to be quantized to {bits} bits; use {least} to 8.")


def check_groups(rows: int, group_size: int, name: str) -> None:
    """Refuse a group size that does not divide the rows, listing those up to 64 that do."""
    if group_size < 1 or rows % group_size:
        sizes = [str(size) for size in range(1, min(rows, 64) + 1) if rows % size == 0]
        raise InputError(
            f"{name} has {rows} rows, which groups of {group_size} do not divide; "
            f"use a group size of {', '.join(sizes)}, or pad the rows."
        )


def check_finite(values: NDArray[Any], name: str) -> None:
    """Refuse NaN, infinity and values that float16 cannot hold."""
    wide = values.astype(np.float32)
    for kind, found in (("NaN", np.isnan(wide)), ("infinity", np.isinf(wide))):
        if found.any():
            raise InputError(f"{name} contains {kind}; export a checkpoint with finite weights.")
    if wide.size and (largest := float(np.abs(wide).max())) > FLOAT16_MAX:
        raise InputError(
            f"{name} contains a value of magnitude {largest:g}, beyond float16's {FLOAT16_MAX:g}; "
            "export a checkpoint whose weights fit float16."
        )
