"""The same model with smaller activations, which half precision holds: a change of weights that is
exact in real numbers.

The residual stream is divided by a power of two d. What is written into it becomes smaller: the
embeddings E/d, and what matrices add to it. Of a gated block the factor is taken before the product
of gate and up, which is the largest number on the way, and divided with it:

    W_down·(silu(g) · (W_up/d)·x) = W_down·(silu(g) · W_up·x) / d.

The stream is only read through RMS norms, and with eps/d² in place of eps these do not see the
difference:

    (x/d) / sqrt(mean((x/d)²) + eps/d²) = x / sqrt(mean(x²) + eps).

Key biases of attention without a rotary embedding are left out: q·(k + b) = q·k + q·b, and the last
term is equal for all keys of a query, so the softmax cancels it. A large constant in one feature of
all keys only makes scores overflow and takes digits from the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.checkpoint.source import (
    StatisticsSource,
    TensorInfo,
    TensorSource,
    WeightSource,
    fresh_digest,
    statistics_digest,
    stored_weights,
)
from export.quant.recipe import QuantSpec
from export.quant.statistics import Statistics
from export.quant.weights import DenseWeight, LutWeight, Weight

_EXACT = ("float32", "bfloat16")  # a power of two changes only the exponent; halves have few


@dataclass(frozen=True)
class HalfRange:
    """Tensors that decide how large activations are, and whose change leaves a model as it is.

    With all of `divided` divided by one number, so is the residual stream. `cancelled` are biases
    that a softmax cancels. A head that a checkpoint lacks is `tied` to a matrix in `divided`.
    """

    divided: tuple[str, ...]
    cancelled: tuple[str, ...]
    tied: Mapping[str, str]


class HalfRangeSource:
    """The tensors of `origin` for a stream divided by `divisor`, a power of two, and with zeros in
    place of biases that a softmax cancels. Implements `TensorSource`, `WeightSource` and
    `StatisticsSource`.

    Embeddings and a tied head become two matrices: the head only reads the stream.
    """

    def __init__(self, origin: TensorSource, change: HalfRange, divisor: int) -> None:
        self._origin, self._tied, self._divisor = origin, change.tied, divisor
        self._divided = frozenset(change.divided) if divisor > 1 else frozenset()
        self._zero = frozenset(change.cancelled)
        self._changed = self._divided | self._zero
        tensors = dict(origin.tensors)
        for name, rows in change.tied.items():
            if rows in tensors:
                tensors.setdefault(name, tensors[rows])
        self.tensors: Mapping[str, TensorInfo] = {
            name: replace(info, dtype=_type(info.dtype)) if name in self._divided else info
            for name, info in tensors.items()
        }

    def read(self, name: str) -> np.ndarray:
        """The whole tensor."""
        return self._fitted(name, self._origin.read(self._stored(name)))

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor)."""
        return self._fitted(name, self._origin.read_rows(self._stored(name), begin, end))

    def _fitted(self, name: str, values: np.ndarray) -> np.ndarray:
        if name in self._zero:
            return np.zeros_like(values)
        if name not in self._divided:
            return values
        divided = values.astype(np.float32) / np.float32(self._divisor)
        return divided.astype(self.tensors[name].dtype)

    @property
    def weights(self) -> Mapping[str, QuantSpec]:
        """Specifications of the matrices in a storage form: those of the origin."""
        found = stored_weights(self._origin)
        return {name: found[self._stored(name)] for name in self.tensors if self._is_stored(name)}

    def _is_stored(self, name: str) -> bool:
        return self._stored(name) in stored_weights(self._origin)

    def read_weight(self, name: str, begin: int, end: int) -> Weight:
        """Rows in their storage form; what is divided are tables, or scales and offsets."""
        assert isinstance(self._origin, WeightSource), "the origin holds no weights"
        weight = self._origin.read_weight(self._stored(name), begin, end)
        return _divided(weight, self._divisor) if name in self._divided else weight

    @property
    def statistics_digest(self) -> str:
        """That of the origin."""
        return statistics_digest(self._origin)

    def statistics(self, name: str) -> Statistics | None:
        """Those of the origin: what a matrix multiplies does not change."""
        origin = self._origin
        return origin.statistics(name) if isinstance(origin, StatisticsSource) else None

    def identity(self, name: str) -> tuple[int, ...]:
        """That of the origin's tensor, and what is done to it."""
        own = self._origin.identity(self._stored(name))
        return (*own, self._divisor) if name in self._changed else own

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of what `read_rows` or, in a storage form, `read_weight` returns."""
        if name in self._changed:
            return fresh_digest(self, name, begin, end)
        return self._origin.digest(self._stored(name), begin, end)

    def _stored(self, name: str) -> str:
        """Where the origin holds a tensor: a tied head is its embeddings."""
        return name if name in self._origin.tensors else self._tied[name]


def _type(dtype: str) -> str:
    return dtype if dtype in _EXACT else "float32"


def _divided(weight: Weight, divisor: int) -> Weight:
    if isinstance(weight, LutWeight):
        return replace(weight, lut=_smaller(weight.lut, divisor))
    if isinstance(weight, DenseWeight):
        return replace(weight, values=_smaller(weight.values, divisor))
    offset = None if weight.offset is None else _smaller(weight.offset, divisor)
    return replace(weight, scale=_smaller(weight.scale, divisor), offset=offset)


def _smaller(values: Any, divisor: int) -> Any:
    return (values.astype(np.float32) / np.float32(divisor)).astype(values.dtype)
