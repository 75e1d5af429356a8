"""Batches for a GPU: other processes draw them, the GPU keeps them and sees each a few times."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Condition, Thread

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from examples.pocket.batch import Batch, make_batch, to_device
from examples.pocket.curriculum import Schedule, Stage
from examples.pocket.options import Options
from examples.pocket.pool import Pool, open_pool

_AHEAD = 1 / 60  # of the run: before a stage begins, its first batches are drawn
_CAPACITY = 200_000  # examples that the GPU keeps


@dataclass(frozen=True)
class _Drawn:
    """A batch for one stage, and how many examples its process has drawn so far."""

    stage: str
    batch: Batch
    count: int


class _Drawing(IterableDataset[_Drawn]):
    """Batches for the stage at `clock` seconds of the run, until `clock` is infinite."""

    def __init__(self, options: Options, schedule: Schedule, drawn: int, clock: Tensor) -> None:
        self._options, self._schedule, self._drawn = options, schedule, drawn
        self._clock = clock

    def __iter__(self) -> Iterator[_Drawn]:
        process = get_worker_info()
        pool = open_pool(self._options, 0 if process is None else process.id, self._drawn)
        while math.isfinite(seconds := float(self._clock)):
            stage = self._schedule.stage(seconds)
            yield _Drawn(stage.name, self._batch(pool, stage), pool.drawn)

    def _batch(self, pool: Pool, stage: Stage) -> Batch:
        examples = pool.fresh(stage.batch, stage.tasks_among(self._options.tasks))
        rng = np.random.default_rng([self._options.seed, pool.drawn])
        return make_batch(examples, stage.weights, stage.thinning, rng, sys.maxsize)


class Feed:
    """The batches at hand on `device`, for one stage at a time."""

    def __init__(
        self, options: Options, schedule: Schedule, drawn: int, device: torch.device
    ) -> None:
        self.drawn = drawn  # of every process
        self._device, self._ahead = device, _AHEAD * schedule.seconds
        self._rng = np.random.default_rng([options.seed, drawn])
        self._clock = torch.zeros(1, dtype=torch.float64).share_memory_()  # type: ignore[no-untyped-call]
        self._shelves: dict[str, list[Batch]] = {}
        self._now, self._over = "", set[str]()
        self._changed, self._error = Condition(), ""
        drawing = _Drawing(options, schedule, drawn, self._clock)
        self._loader = DataLoader(
            drawing,
            batch_size=None,
            num_workers=options.workers,
            multiprocessing_context="spawn",
            prefetch_factor=1,
        )
        self._thread = Thread(target=self._receive, daemon=True)
        self._thread.start()

    def batch(self, stage: Stage, seconds: float) -> Batch:
        """Return one of the batches of `stage`, at `seconds` of the run."""
        with self._changed:
            if stage.name != self._now:
                self._over.add(self._now)
                self._shelves.pop(self._now, None)
                self._now = stage.name
            if stage.name not in self._shelves:
                self._clock.fill_(seconds)
            self._changed.wait_for(lambda: self._error or stage.name in self._shelves)
            self._clock.fill_(seconds + self._ahead)
            if self._error:
                raise RuntimeError(self._error)
            shelf = self._shelves[stage.name]
            return shelf[int(self._rng.integers(len(shelf)))]

    def close(self) -> None:
        """Stop drawing."""
        self._clock.fill_(math.inf)
        self._thread.join()

    def _receive(self) -> None:
        try:
            for drawn in self._loader:
                if math.isfinite(float(self._clock)):
                    self._keep(drawn)
        except Exception as error:  # raised where a batch is waited for
            with self._changed:
                self._error = f"drawing failed: {error}"
                self._changed.notify_all()

    def _keep(self, drawn: _Drawn) -> None:
        if drawn.stage in self._over:
            return
        batch = to_device(drawn.batch, self._device)
        with self._changed:
            self.drawn = max(self.drawn, drawn.count)
            shelf = self._shelves.setdefault(drawn.stage, [])
            if len(shelf) * batch.size < _CAPACITY:
                shelf.append(batch)
            else:
                shelf[int(self._rng.integers(len(shelf)))] = batch
            self._changed.notify_all()
