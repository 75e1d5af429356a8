"""Work of one operation on all cores, in blocks that threads take as they become free.

A thread that finds no work sleeps: beside another busy process the blocks go to the core that is
left. OpenBLAS's own threads would wait by spinning, each for the slowest, so it gets one thread
while ours call it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from importlib import import_module
from typing import Any

Work = Callable[[int, int], None]
_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "_64_", "")


@cache
def cores() -> int:
    """Cores that this process may use: those that the system gives it, or fewer if numpy's BLAS
    was told to use fewer (OMP_NUM_THREADS), which people do to leave some to others."""
    has_affinity = hasattr(os, "sched_getaffinity")
    own = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(own, _blas().most) if _blas().most else own


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of `process`; those of a parent do not live on in a forked child."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "mil")


def run_blocks(work: Work, count: int, step: int) -> None:
    """Call work(begin, end) for ranges of `step` that cover 0 … count, in any order and at the same
    time on all cores. An exception of `work` is raised after every call has ended."""
    helpers = min(cores(), -(-count // step)) - 1
    begins = iter(range(0, count, step))  # threads share it: each takes the next one

    def take() -> None:
        for begin in begins:
            work(begin, min(begin + step, count))

    if helpers < 1:
        take()
        return
    with _one_blas_thread():
        pool = _pool(os.getpid())
        futures: list[Future[None]] = [
            pool.submit(copy_context().run, take) for _ in range(helpers)
        ]
        try:
            take()
        finally:
            # One that has not begun yet would find nothing to do.
            errors = [future.exception() for future in futures if not future.cancel()]
    for error in filter(None, errors):
        raise error


class _Blas:
    """How many threads numpy's OpenBLAS uses, for as long as anybody needs a single one."""

    def __init__(self) -> None:
        library = ctypes.CDLL(_linear_algebra())
        self._set, self._get = (_function(library, name) for name in ("set", "get"))
        self._lock = threading.Lock()
        self._users = 0
        self._threads = 1
        self.most = 0 if self._get is None else int(self._get())  # 0: not known

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1 and self._get is not None:
                self._threads = self._get()
                self._change(1)

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._change(self._threads)

    def _change(self, threads: int) -> None:
        if self._set is not None and self._threads > 1:
            self._set(threads)


def _linear_algebra() -> str:
    """numpy's module that is linked with BLAS: a name is looked up in what it is linked with."""
    return str(import_module("numpy._core._multiarray_umath").__file__)


def _function(library: ctypes.CDLL, verb: str) -> Callable[..., Any] | None:
    """OpenBLAS's function; None if numpy uses another library, such as Apple's."""
    names = [f"{p}_{verb}_num_threads{s}" for p in _PREFIXES for s in _SUFFIXES]
    return next((getattr(library, name) for name in names if hasattr(library, name)), None)


@cache
def _blas() -> _Blas:
    return _Blas()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    blas = _blas()
    blas.enter()
    try:
        yield
    finally:
        blas.leave()
