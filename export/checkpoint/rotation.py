"""Rotation of the residual stream, folded into the weights around it: another basis, the same
model.

With an orthogonal R, embeddings E become E·R, matrices that read the stream W·diag(gain)·R, those
that write into it Rᵀ·W, and gains 1: an RMS norm without gains commutes with R. A rotation spreads
outlying channels over all others, so that weights and activations need fewer digits (QuaRot,
Ashkboos et al. 2024; SpinQuant, Liu et al. 2024). R = diag(signs)·(H ⊗ C): H is a Hadamard matrix
of the largest power of two that divides the size, C the Hartley matrix of the odd rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.source import TensorInfo, TensorSource, rows_digest, stored_weights
from export.quant.statistics import diagonal_part
from export.quant.transpose import transposed

_FACTOR = 64  # the largest Hadamard factor that is multiplied as a matrix
_DIGESTED = 1 << 24  # values that are rotated together for a digest
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class ResidualStream:
    """Tensors at the residual stream of a model.

    `readers` are matrices (out, size) that multiply the output of an RMS norm, by the name of that
    norm's gains. `writers` are matrices (size, in) whose product is added to the stream. `rows` are
    matrices (n, size) whose rows, or products x · matrix, are vectors of the stream. A reader that
    a checkpoint lacks is `tied` to a matrix in `rows`.
    """

    size: int
    readers: Mapping[str, str]
    writers: tuple[str, ...]
    rows: tuple[str, ...]
    tied: Mapping[str, str]


class Rotation:
    """A seeded orthogonal matrix R of any size, applied without storing it."""

    def __init__(self, size: int, seed: int) -> None:
        bits = np.frombuffer(hashlib.shake_256(str(seed).encode()).digest(size), np.uint8) & 1
        self._signs = (1 - 2 * bits.astype(np.float32)).astype(np.float32)
        self._factors = [factor.astype(np.float32) for factor in _factors(size)]

    def apply(self, rows: NDArray[Any]) -> Float32:
        """rows (n, size) · R, float32."""
        return self._mix(rows.astype(np.float32) * self._signs)

    def _mix(self, x: Float32) -> Float32:
        (count, size), before = x.shape, 1
        for factor in self._factors:
            width = len(factor)
            x = np.matmul(factor, x.reshape(count * before, width, -1))
            before *= width
        return np.ascontiguousarray(x.reshape(count, size))

    def undo(self, rows: NDArray[Any]) -> Float32:
        """rows (n, size) · Rᵀ, float32."""
        mixed: Float32 = self._mix(rows.astype(np.float32)) * self._signs
        return mixed

    def diagonal_part(self, moments: Float32) -> Float32:
        """What is left of rotated moments (size, size) if, before the rotation, all off the
        diagonal is dropped: Rᵀ · diag(R · moments · Rᵀ) · R."""
        before = self.undo(transposed(self.undo(moments)))
        return self.apply(transposed(self.apply(np.diag(before.diagonal()))))


def _factors(size: int) -> list[NDArray[np.float64]]:
    """Symmetric orthogonal matrices whose Kronecker product has `size` rows."""
    factors = []
    while size % 2 == 0:
        width = min(_FACTOR, size & -size)
        factors.append(_hadamard(width))
        size //= width
    if size > 1:
        factors.append(_hartley(size))
    return factors


def _hadamard(size: int) -> NDArray[np.float64]:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / size**0.5)


def _hartley(size: int) -> NDArray[np.float64]:
    places = np.arange(size)
    angles = 2 * np.pi / size * (np.outer(places, places) % size)
    return np.asarray((np.cos(angles) + np.sin(angles)) / size**0.5)


class RotatedSource:
    """The tensors of another source with a rotation folded in, a `TensorSource`.

    Embeddings and a tied head become two matrices: only the head takes the final norm's gains.
    """

    def __init__(self, origin: TensorSource, stream: ResidualStream, seed: int) -> None:
        self._origin, self._stream, self._seed = origin, stream, seed
        self._rotation = Rotation(stream.size, seed)
        self._norms = frozenset(stream.readers.values())
        self._digests: dict[tuple[str, int, int], str] = {}
        tensors = dict(origin.tensors)
        for name, rows in stream.tied.items():
            tensors.setdefault(name, tensors[rows])
        changed = {*stream.readers, *stream.writers, *stream.rows, *self._norms}
        self.tensors: Mapping[str, TensorInfo] = {
            name: replace(info, dtype="float32") if name in changed else info
            for name, info in tensors.items()
        }
        self._changed = changed

    def read(self, name: str) -> np.ndarray:
        """The whole tensor; float32 if the rotation changes it."""
        return self.read_rows(name, 0, self.tensors[name].row_count)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor)."""
        stored = self._stored(name)
        if name not in self._changed:
            return self._origin.read_rows(stored, begin, end)
        if name in self._norms:
            return np.ones_like(self._origin.read(stored)[begin:end], np.float32)
        if name in self._stream.writers:
            columns = transposed(self._origin.read(stored))
            return transposed(self._rotation.apply(columns)[:, begin:end])
        rows = self._origin.read_rows(stored, begin, end).astype(np.float32)
        if name in self._stream.readers:
            rows *= self._origin.read(self._stream.readers[name]).astype(np.float32)
        return self._rotation.apply(rows)

    def diagonal_part_of(self, name: str) -> Callable[[Float32], Float32]:
        """What is left of the second moments of a matrix's inputs if they are taken as uncorrelated
        before the rotation."""
        return self._rotation.diagonal_part if name in self._stream.readers else diagonal_part

    def adds_to_stream(self, name: str) -> bool:
        """Whether a matrix's product is added to the residual stream."""
        return name in self._stream.writers

    def identity(self, name: str) -> tuple[int, ...]:
        """That of the tensors that it is computed from, and the rotation's seed."""
        own = self._origin.identity(self._stored(name))
        if name not in self._changed:
            return own
        norm = self._stream.readers.get(name)
        gains = () if norm is None else self._origin.identity(norm)
        return (*own, *gains, self._seed)

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of what `read_rows` returns."""
        stored = self._stored(name)
        if name not in self._changed and stored not in stored_weights(self._origin):
            return self._origin.digest(stored, begin, end)
        key = (name, begin, end)
        if key not in self._digests:
            columns = int(np.prod(self.tensors[name].shape[1:]))
            whole = name in self._stream.writers  # of which a row takes all of the origin's
            step = end - begin if whole else _DIGESTED // columns
            self._digests[key] = rows_digest(self, name, range(begin, end, max(1, step)))
        return self._digests[key]

    def _stored(self, name: str) -> str:
        """Where the origin holds a tensor: a tied head is its embeddings."""
        return name if name in self._origin.tensors else self._stream.tied[name]
