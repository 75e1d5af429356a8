"""Runs the requests for parts: in this process, in worker processes, or on a Dask cluster.

The same function runs in all cases, so the bytes are the same. Workers report their progress
through files in the cache, which all of them share.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.build.parent import exit_with_parent
from export.build.part_cache import PartCache
from export.build.parts import Part, PartRequest, build_part
from export.build.progress import Progress
from mobile_runtime.errors import InputError

_POLL_SECONDS = 0.5


def build_parts(
    requests: Sequence[PartRequest], jobs: int, scheduler: str | None, progress: Progress
) -> dict[str, Part]:
    """Build all parts and return them by name; the first that fails stops the others."""
    if jobs == 1 and scheduler is None:
        return {r.part: _build_here(r, progress) for r in requests}
    with _executor(jobs, scheduler) as executor:
        return _build_elsewhere(requests, executor, progress)


def _build_here(request: PartRequest, progress: Progress) -> Part:
    part = build_part(request, progress.advance)
    progress.finish(part)
    return part


def _build_elsewhere(
    requests: Sequence[PartRequest], executor: Executor, progress: Progress
) -> dict[str, Part]:
    # Any: a cluster's futures are not those of the standard library, but behave like them.
    waiting: dict[Future[Any], PartRequest] = {
        executor.submit(build_part, request): request for request in requests
    }
    running = PartCache(requests[0].cache).progress_folder(requests[0].owner)
    finished: dict[str, Part] = {}
    while waiting:
        done, _ = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            part: Part = future.result()
            finished[part.name] = part
            del waiting[future]
            progress.finish(part)
        progress.show({path.parent.name: _count(path) for path in running.glob("*/progress")})
    return finished


def _count(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii") or 0)
    except (OSError, ValueError):  # just finished, or being written
        return 0


@contextmanager
def _executor(jobs: int, scheduler: str | None) -> Iterator[Executor]:
    if scheduler is not None:
        with _cluster(scheduler) as executor:
            yield executor
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe with threads
    executor = ProcessPoolExecutor(jobs, context, initializer=exit_with_parent)
    try:
        yield executor
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died, most likely for lack of memory; run the same command again "
            "with --jobs 1: it continues with the parts that are finished."
        ) from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "--scheduler needs Dask, which is not installed; run pip install -e '.[scheduler]'."
        ) from error
    try:
        client: Any = Client(address, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address}; give an address such as tcp://host:8786."
        ) from error
    with client:
        yield client.get_executor()
