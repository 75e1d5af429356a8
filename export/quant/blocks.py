"""Block quantization: integers with one scale, or scale and offset, per block of a row's columns.

A matrix goes in, a BlockWeight comes out; only some rows at a time are in float32. The recipe
decides which weights are stored this way.

Symmetric blocks store scale · q, asymmetric ones scale · q + offset: the form of llama.cpp's Q4_1,
d · q + m, with integers about zero. An asymmetric block whose values lie on a grid of at most
2**bits equal steps is restored, depending on the type of the values:

- float32, d · q + m of float16 or bfloat16 d and m: bit by bit, if a float32 holds the offset
  m + 8 · d (|m| and 8 · |d| differ by a factor below 2**13).
- float32, of longer d and m: within 2**-22 of the block's largest value.
- float16 and bfloat16, which are such sums rounded: to values that round to the same bits. Of
  bfloat16 blocks about one in 10⁴ is not, and more if the last digit is nearly as large as a step.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.quant.blocks_kernels import quantize_asymmetric, quantize_symmetric
from export.quant.checks import FLOAT16_MAX, check_bits, check_finite, check_matrix
from export.quant.recipe import QuantSpec
from export.quant.weights import BlockWeight
from mobile_runtime.errors import InputError

_VALUES_PER_TASK = 1 << 20
# Candidate scales, relative to the one that maps the block's largest value to the lowest integer:
# < 1 clips that value and fits the rest better; > 1 rounds it and may fit the spacing of the rest;
# negative maps it to the highest integer.
_FACTORS = np.array([*np.linspace(0.7, 1.3, 25), *np.linspace(-1.2, -1, 5)], np.float32)
_DIGITS = {"bfloat16": 8, "float16": 11, "float32": 24}


def quantize_blocks(
    values: NDArray[Any],
    *,
    spec: QuantSpec,
    name: str,
    padded_rows: int | None = None,
    threads: int | None = None,
) -> BlockWeight:
    """Quantize every `spec.group_size` columns of a row to −2**(bits − 1) … 2**(bits − 1) − 1.

    Each block gets the scale, or scale and offset, of least squared error among those tried; the
    scale of a symmetric block may be negative. An asymmetric block on a grid is restored instead:
    see this module.

    `values` (r, columns) is bfloat16, float16 or float32; `padded_rows` ≥ r appends rows of zeros;
    `threads` None means one per core. Raises `InputError`, which names the tensor, for NaN,
    infinity or values beyond float16, or if the blocks do not divide the columns.
    """
    bits, block_size, symmetric = spec.bits, spec.group_size, spec.symmetric
    rows = values.shape[0] if padded_rows is None else padded_rows
    check_matrix(values, rows, name)
    check_bits(bits, 2, name)
    columns = values.shape[1]
    if columns % block_size:
        raise InputError(
            f"{name} has {columns} columns, which blocks of {block_size} do not divide; "
            "give a block size that does."
        )
    q = np.zeros((rows, columns), np.int8)
    scales = np.ones((rows, columns // block_size), np.float32)
    digits = _DIGITS[values.dtype.name]
    offsets = None if symmetric else np.zeros(scales.shape, np.float32)

    def run(begin: int, end: int) -> bool:
        block = to_float32(values[begin:end])
        if not np.abs(block).max(initial=0) <= FLOAT16_MAX:
            return False
        if offsets is None:
            quantize_symmetric(block, bits, _FACTORS, q[begin:end], scales[begin:end])
        else:
            stored = q[begin:end], scales[begin:end], offsets[begin:end]
            quantize_asymmetric(block, bits, digits, *stored)
        return True

    step = max(1, _VALUES_PER_TASK // columns)
    begins = range(0, values.shape[0], step)
    ends = [min(begin + step, values.shape[0]) for begin in begins]
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for begin, good in zip(begins, pool.map(run, begins, ends), strict=True):
            if not good:
                check_finite(values[begin : begin + step], name)
                raise AssertionError(f"{name}: rows from {begin} were refused without a reason")
    return BlockWeight(q, scales, offsets, bits)


def to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return contiguous float32.

    A bfloat16 is the upper half of a float32: shifting bits is ten times as fast as numpy's own
    conversion, and other threads can run meanwhile.
    """
    if values.dtype.name != "bfloat16":
        return np.ascontiguousarray(values, np.float32)
    wide = np.ascontiguousarray(values).view(np.uint16).astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
