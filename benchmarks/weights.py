"""Heavy-tailed weights drawn from a tensor's name: any block of rows on its own, at memory speed.

A value is one of 65,536 equally likely quantiles of Student's t with four degrees of freedom,
chosen by 16 bits of a generator that can jump to any position. So a value depends only on name,
shape and place, not on who draws it in which order. Raw generator output only: numpy keeps that
stream the same in every version.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
_LEVELS = 1 << 16
_DRAWS = 4  # of 16 bits, in each 64-bit number of the generator
# One input channel in this many, but at least one, is 10 to 50 times as large as the others.
_CHANNELS_PER_OUTLIER = 512
_OUTLIER_FACTORS = (10.0, 50.0)
_VECTOR_STD = 0.02
# Matrices whose output is added to the residual stream: 1/√(2·36), so that the sum over the
# published depth stays near one.
_RESIDUAL = ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")
_RESIDUAL_GAIN = 72**-0.5
_BLOCK_VALUES = 1 << 20


class HeavyTailed:
    """The bfloat16 values of one tensor.

    A matrix, (rows, …) with all further axes as input channels, turns inputs of variance one into
    outputs of variance one (residual ones: 1/72), its outlier channels included. Biases lie near
    zero, gains near one.
    """

    def __init__(self, name: str, shape: Shape) -> None:
        self.shape = shape
        self.columns = int(np.prod(shape[1:]))
        self._seed = list(name.encode())
        self._channels: NDArray[np.intp] = np.empty(0, np.intp)
        self._factors: NDArray[np.float64] = np.empty(0)
        if len(shape) > 1:
            self._draw_outliers()
            gain = _RESIDUAL_GAIN if name.endswith(_RESIDUAL) else 1.0
            others = self.columns - len(self._channels)
            self._std, mean = gain / np.sqrt(others + np.square(self._factors).sum()), 0.0
        else:
            self._std, mean = _VECTOR_STD, 0.0 if name.endswith("bias") else 1.0
        self._table = _bfloat16_bits(mean + self._std * _student_t())

    def _draw_outliers(self) -> None:
        bits = np.random.PCG64DXSM([1, *self._seed])
        count = max(1, self.columns // _CHANNELS_PER_OUTLIER)
        self._channels = np.argsort(bits.random_raw(self.columns))[:count]
        low, high = _OUTLIER_FACTORS
        self._factors = np.asarray(low + (high - low) * bits.random_raw(count) / 2.0**64)

    def rows(self, begin: int, end: int) -> NDArray[Any]:
        """Rows `begin` to `end` - 1."""
        draws = self._draws(begin * self.columns, (end - begin) * self.columns)
        draws = draws.reshape(-1, self.columns)
        values = self._table[draws]
        if len(self._channels):
            outliers = _student_t()[draws[:, self._channels]] * (self._std * self._factors)
            values[:, self._channels] = _bfloat16_bits(outliers)
        return values.reshape(-1, *self.shape[1:]).view(ml_dtypes.bfloat16)

    def _draws(self, first: int, count: int) -> NDArray[np.uint16]:
        """Table positions of `count` values from the tensor's value `first`."""
        bits = np.random.PCG64DXSM([0, *self._seed])
        number, skip = divmod(first, _DRAWS)
        bits.advance(number)
        numbers = bits.random_raw(-(-(skip + count) // _DRAWS)).astype("<u8", copy=False)
        return numbers.view("<u2")[skip : skip + count]

    def blocks(self) -> list[tuple[int, int]]:
        """Consecutive ranges of rows that cover the tensor, of about a million values."""
        step = max(1, _BLOCK_VALUES // self.columns)
        rows = self.shape[0]
        return [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


def draw_tensor(name: str, shape: Shape) -> NDArray[Any]:
    """The whole tensor, bfloat16."""
    tensor = HeavyTailed(name, shape)
    return np.concatenate([tensor.rows(begin, end) for begin, end in tensor.blocks()])


@cache
def _student_t() -> NDArray[np.float64]:
    """(65536,) quantiles at (i + ½)/65536, scaled to variance one; the largest is about 17.

    Four degrees of freedom have a closed form: t² = 4·(cos(arccos(√a)/3)/√a − 1), a = 4p(1 − p).
    """
    p = (np.arange(_LEVELS) + 0.5) / _LEVELS
    root = np.sqrt(4 * p * (1 - p))
    squared = 4 * (np.cos(np.arccos(root) / 3) / root - 1)
    values = np.sign(p - 0.5) * np.sqrt(np.maximum(squared, 0))
    return np.asarray(values / values.std())


def _bfloat16_bits(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    return values.astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
