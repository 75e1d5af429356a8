"""What was read of a checkpoint, with digests: a result is known by what it was made from.

Bytes are hashed as they pass, so that knowing them costs no second reading.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.checkpoint.checkpoint import Checkpoint, bytes_of


@dataclass(frozen=True)
class Reading:
    """Rows begin … end - 1 of a tensor (all rows: the whole tensor) and the SHA-256 of their
    bytes."""

    tensor: str
    begin: int
    end: int
    sha256: str


class HashedSource:
    """Hands out a checkpoint's tensors and remembers what it handed out. Implements
    `export.checkpoint.source.TensorSource`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._whole: dict[str, Reading] = {}
        self._blocks: dict[str, list[_Block]] = {}

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, as stored."""
        tensor = self._checkpoint.read(name)
        if name not in self._whole:
            digest = hashlib.sha256(bytes_of(tensor)).hexdigest()
            rows = self._checkpoint.rows(name)
            self._whole[name] = Reading(name, 0, rows, digest)
        return tensor

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` of a matrix; blocks that follow one another become one reading."""
        values = self._checkpoint.read_rows(name, begin, end)
        blocks = self._blocks.setdefault(name, [])
        if not blocks or blocks[-1].end != begin:
            blocks.append(_Block(begin))
        blocks[-1].add(values)
        return values

    def readings(self) -> tuple[Reading, ...]:
        """Everything handed out so far, sorted."""
        blocks = [
            Reading(name, block.begin, block.end, block.digest.hexdigest())
            for name, found in self._blocks.items()
            for block in found
            if block.end > block.begin
        ]
        everything = [*self._whole.values(), *blocks]
        return tuple(sorted(everything, key=lambda r: (r.tensor, r.begin, r.end)))


class _Block:
    """Consecutive rows on their way through a hash."""

    def __init__(self, begin: int) -> None:
        self.begin = self.end = begin
        self.digest: Any = hashlib.sha256()

    def add(self, values: np.ndarray) -> None:
        self.digest.update(bytes_of(values))
        self.end += len(values)
