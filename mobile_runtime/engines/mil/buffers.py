"""Memory that is used again: a fresh page costs the system more than what is written to it."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from math import prod

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

_LARGE = 1 << 22  # elements of a result; the allocator itself keeps smaller memory
_RESULTS = 3  # as many as a chain of operations holds at a time


class Buffers(threading.local):
    """Memory of one thread for what it works on."""

    def __init__(self) -> None:
        self._kept = np.empty(0, np.float32)

    def matrix(self, rows: int, columns: int) -> Array:
        """An uninitialised (rows, columns) of float32, valid until the thread's next call."""
        if self._kept.size < rows * columns:
            self._kept = np.empty(rows * columns, np.float32)
        return self._kept[: rows * columns].reshape(rows, columns)


class _Lent:
    """Memory as numpy takes it from other objects: arrays that see it keep this object alive."""

    def __init__(self, memory: Array, kept: deque[Array]) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory, self._kept = memory, kept

    def __del__(self) -> None:
        self._kept.append(self._memory)


class Results:
    """Memory of large results, which is given again when the last view of it is gone."""

    def __init__(self) -> None:
        self._kept: deque[Array] = deque(maxlen=_RESULTS)  # of those that nobody sees

    def empty(self, shape: tuple[int, ...]) -> Array:
        """An uninitialised array of float32, contiguous."""
        size = prod(shape)
        if size < _LARGE:
            return np.empty(shape, np.float32)
        return np.asarray(_Lent(self._memory(size), self._kept)).reshape(shape)

    def _memory(self, size: int) -> Array:
        """One of `size` that is kept, or a new one. Taking is atomic: threads need no lock."""
        for _ in range(len(self._kept)):
            with suppress(IndexError):  # another thread took the last one
                memory = self._kept.pop()
                if memory.size == size:
                    return memory
                self._kept.appendleft(memory)
        return np.empty(size, np.float32)


RESULTS = Results()
