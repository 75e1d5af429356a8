"""Memory that is used again: a fresh page costs the system more than what is written to it."""

from __future__ import annotations

import sys
import threading
from math import prod

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

_LARGE = 1 << 22  # elements of a result; the allocator itself keeps smaller memory
_RESULTS = 3  # as many as a chain of operations holds at a time
_UNUSED = 3  # references to an array that nobody else has: the list's, the loop's, the question's


class Buffers(threading.local):
    """Memory of one thread for what it works on."""

    def __init__(self) -> None:
        self._kept = np.empty(0, np.float32)

    def matrix(self, rows: int, columns: int) -> Array:
        """An uninitialised (rows, columns) of float32, valid until the thread's next call."""
        if self._kept.size < rows * columns:
            self._kept = np.empty(rows * columns, np.float32)
        return self._kept[: rows * columns].reshape(rows, columns)


class Results:
    """Memory of large results, which is given again when the last view of it is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Array] = []

    def empty(self, shape: tuple[int, ...]) -> Array:
        """An uninitialised array of float32, contiguous."""
        size = prod(shape)
        if size < _LARGE:
            return np.empty(shape, np.float32)
        with self._lock:
            for memory in self._kept:
                if memory.size == size and sys.getrefcount(memory) == _UNUSED:
                    return memory.reshape(shape)
            memory = np.empty(size, np.float32)
            self._kept = [*self._kept[1 - _RESULTS :], memory]
            return memory.reshape(shape)


RESULTS = Results()
