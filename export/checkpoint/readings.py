"""Records which rows of which tensors an export read, with SHA-256, so that the cache of parts can
tell whether they changed.

Bytes are hashed as they are read: nothing is read twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.checkpoint.source import (
    StatisticsSource,
    TensorInfo,
    TensorSource,
    WeightSource,
    bytes_of,
    statistics_digest,
    stored_weights,
    weight_digest,
)
from export.quant.recipe import QuantSpec
from export.quant.statistics import Statistics
from export.quant.weights import Weight


@dataclass(frozen=True)
class Reading:
    """Rows begin … end - 1 of a tensor (all rows: the whole tensor) and their SHA-256, as
    `TensorSource.digest` returns it."""

    tensor: str
    begin: int
    end: int
    sha256: str


class HashedSource:
    """Reads from another source, and records what was read."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        self._whole: dict[tuple[str, int, int], Reading] = {}
        self._blocks: dict[str, list[_Block]] = {}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Those of the source."""
        return self._source.tensors

    @property
    def weights(self) -> Mapping[str, QuantSpec]:
        """Those of the source."""
        return stored_weights(self._source)

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, as stored."""
        tensor, rows = self._source.read(name), self.tensors[name].row_count
        if (name, 0, rows) not in self._whole:
            self._note(name, 0, rows, self._digest(name, 0, rows, tensor))
        return tensor

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` of a matrix; consecutive blocks become one reading."""
        values = self._source.read_rows(name, begin, end)
        if name in self.weights:  # hashed in its storage form
            end = min(end, self.tensors[name].row_count)
            self._note(name, begin, end, self._source.digest(name, begin, end))
            return values
        blocks = self._blocks.setdefault(name, [])
        if not blocks or blocks[-1].end != begin:
            blocks.append(_Block(begin))
        blocks[-1].add(values)
        return values

    def read_weight(self, name: str, begin: int, end: int) -> Weight:
        """Rows `begin` to `end` in their storage form."""
        assert isinstance(self._source, WeightSource), "the source holds no weights"
        weight = self._source.read_weight(name, begin, end)
        self._note(name, begin, min(end, self.tensors[name].row_count), weight_digest(weight))
        return weight

    @property
    def statistics_digest(self) -> str:
        """That of the source."""
        return statistics_digest(self._source)

    def statistics(self, name: str) -> Statistics | None:
        """Those of the source."""
        source = self._source
        return source.statistics(name) if isinstance(source, StatisticsSource) else None

    def identity(self, name: str) -> tuple[int, ...]:
        """That of the source."""
        return self._source.identity(name)

    def digest(self, name: str, begin: int, end: int) -> str:
        """That of the source."""
        return self._source.digest(name, begin, end)

    def readings(self) -> tuple[Reading, ...]:
        """Everything read so far, sorted."""
        blocks = [
            Reading(name, block.begin, block.end, block.digest.hexdigest())
            for name, found in self._blocks.items()
            for block in found
            if block.end > block.begin
        ]
        everything = [*self._whole.values(), *blocks]
        return tuple(sorted(everything, key=lambda r: (r.tensor, r.begin, r.end)))

    def _digest(self, name: str, begin: int, end: int, values: np.ndarray) -> str:
        if name in self.weights:
            return self._source.digest(name, begin, end)
        return hashlib.sha256(bytes_of(values)).hexdigest()

    def _note(self, name: str, begin: int, end: int, sha256: str) -> None:
        self._whole[name, begin, end] = Reading(name, begin, end, sha256)


class _Block:
    """Consecutive rows, and their digest so far."""

    def __init__(self, begin: int) -> None:
        self.begin = self.end = begin
        self.digest: Any = hashlib.sha256()

    def add(self, values: np.ndarray) -> None:
        self.digest.update(bytes_of(values))
        self.end += len(values)
