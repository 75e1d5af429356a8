"""Positions as the graphs take them: vision buckets, resampler sincos, decoder RoPE, causal masks.

Grid sizes, frame times and token positions go in, arrays in the published code's float32 steps
come out. It knows neither pictures nor graphs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

MASKED = np.float32(-1e4)  # finite, and far below any score in float16
_ARANGE_LANES = 8  # float32 lanes of an AVX2 register, on which the published ids depend
WAVE_BASE = 10000.0  # of the resampler's sine waves


def _unit_steps(n: int) -> Float32:
    """`torch.arange(0, 1 - 1e-6, 1 / n)` in float32 as x86 computes it, shape (n,).

    Whole pairs of registers hold fp32(fp32(step · first index) + lane · step), the rest step · i.
    """
    step = float(np.float32(1) / np.float32(n))
    index = np.arange(n)
    vectorized = index < n - n % (2 * _ARANGE_LANES)
    start = np.where(vectorized, index - index % _ARANGE_LANES, index)
    first_lane = (step * start).astype(np.float32).astype(np.float64)
    return (first_lane + (index - start) * step).astype(np.float32)


def bucket_positions(n: int, buckets: int = 70) -> Int32:
    """Row (or column) of the position table for each of `n` rows (or columns) of patches, (n,).

    Nearly floor(buckets · i / n); n = 25, 49, 50, 55, 58 and larger ones differ by one somewhere.
    """
    boundaries = (np.arange(1, buckets) / buckets).astype(np.float32)
    return np.searchsorted(boundaries, _unit_steps(n), side="right").astype(np.int32)


def position_ids(h: int, w: int, buckets: int = 70) -> Int32:
    """Row of the vision position table for each patch of an h × w grid, row-major, (h·w,)."""
    rows, columns = bucket_positions(h, buckets), bucket_positions(w, buckets)
    return (rows[:, None] * np.int32(buckets) + columns[None, :]).reshape(-1)


def sincos_1d(positions: ArrayLike, dim: int) -> Float32:
    """Sines, then cosines of positions (n,) at dim/2 frequencies 10000^(−2m/dim): (n, dim)."""
    exponent = np.arange(dim // 2, dtype=np.float32) / np.float32(dim / 2)
    angles = _angles(positions, WAVE_BASE, exponent)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _angles(positions: ArrayLike, base: float, exponent: Float32) -> NDArray[np.float64]:
    """Positions times base^(−exponent), (n, exponents), float32 values in float64.

    Powers, and later the sines of the angles, are computed in float64 and then rounded: that gives
    the nearest float32 on every machine. Float32 functions are off by a unit or two in the last
    place, differently in each library.
    """
    frequencies = np.float32(1) / np.power(base, exponent.astype(np.float64)).astype(np.float32)
    angles = np.asarray(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    return angles.astype(np.float64)


def sincos_2d(h: int, w: int, dim: int) -> Float32:
    """Resampler position of each patch, row-major, (h·w, dim): the column's half comes first."""
    columns = sincos_1d(np.arange(w), dim // 2)
    rows = sincos_1d(np.arange(h), dim // 2)
    shape = (h, w, dim // 2)
    halves = [np.broadcast_to(columns[None], shape), np.broadcast_to(rows[:, None], shape)]
    return np.concatenate(halves, axis=2).reshape(h * w, dim)


def sincos_time(temporal_ids: ArrayLike, dim: int) -> Float32:
    """Resampler time of each frame, (n, dim), from ids in units of 0.1 s; id −1 gives zeros."""
    ids = np.asarray(temporal_ids)
    return np.where(ids[:, None] < 0, np.float32(0), sincos_1d(ids, dim))


def rope_tables(positions: ArrayLike, head_dim: int, theta: float) -> tuple[Float32, Float32]:
    """Cosines and sines (n, head_dim) of Qwen3's rotary embedding, both halves alike."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    angles = _angles(positions, theta, exponent)
    emb = np.concatenate([angles, angles], axis=1)
    return np.cos(emb).astype(np.float32), np.sin(emb).astype(np.float32)


def causal_mask(position: int, length: int, context: int, in_state: bool) -> Float32:
    """0 or `MASKED`, (1, 1, length, keys): row i sees keys up to position + i.

    With the cache as a state there are `context` keys. Otherwise the block's own `length` keys
    follow the `context` cached ones.
    """
    rows, columns = np.arange(length)[:, None], np.arange(context)[None, :]
    if in_state:
        visible = columns <= position + rows
    else:
        own = np.arange(length)[None, :] <= rows
        visible = np.concatenate(
            [np.broadcast_to(columns < position, (length, context)), own], axis=1
        )
    return np.where(visible, np.float32(0), MASKED)[None, None]
