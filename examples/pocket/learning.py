"""How a step's losses are computed: on a processor, from examples that the process draws itself,
with no more computed than is needed; on a GPU, from whole batches that others draw."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch

from examples.pocket.batch import PROCESSOR_CHUNK, make_batch
from examples.pocket.curriculum import Schedule, Stage
from examples.pocket.feed import Feed
from examples.pocket.objective import (
    Losses,
    Memory,
    Probes,
    Seen,
    answer_losses,
    batch_losses,
    query_losses,
)
from examples.pocket.options import Options
from examples.pocket.pool import open_pool
from validation.reference.minicpmv import MiniCPMV


class Learning(Protocol):
    """Source of the losses from which a worker learns."""

    def losses(self, model: MiniCPMV, probes: Probes, stage: Stage, seconds: float) -> Losses:
        """Losses of one batch of `stage`, `seconds` into the run."""

    @property
    def drawn(self) -> int:
        """Examples that each process has drawn."""

    def close(self) -> None:
        """Stop the processes that run beside the worker."""


class OnProcessor:
    """Worker number `rank`'s own examples."""

    def __init__(self, options: Options, rank: int, drawn: int) -> None:
        self._tasks = options.tasks
        self._pool = open_pool(options, rank, drawn)
        self._rng = np.random.default_rng([options.seed, rank])
        self._seen: Seen = WeakKeyDictionary()
        self._memory: Memory = WeakKeyDictionary()

    @property
    def drawn(self) -> int:
        """Examples that this worker has drawn."""
        return self._pool.drawn

    def losses(self, model: MiniCPMV, probes: Probes, stage: Stage, seconds: float) -> Losses:
        """Losses of one batch; what a stage does not train is computed once per example."""
        examples = self._pool.batch(stage.batch, stage.tasks_among(self._tasks), stage.shown)
        if stage.learns == "resampler":
            return query_losses(model, probes, examples, stage.thinning, self._rng, self._seen)
        if stage.learns == "decoder":
            return answer_losses(model, probes, examples, stage.thinning, self._rng, self._memory)
        batch = make_batch(examples, stage.weights, stage.thinning, self._rng, PROCESSOR_CHUNK)
        colours = self._rng if stage.recoloured else None
        return batch_losses(model, probes, batch, stage.weights, colours)

    def close(self) -> None:
        """Do nothing: no other process runs."""


class OnGpu:
    """Batches that `options.workers` processes draw."""

    def __init__(self, options: Options, schedule: Schedule, drawn: int) -> None:
        torch.set_float32_matmul_precision("high")  # ten bits of the factors, 32 of the sums
        self._feed = Feed(options, schedule, drawn, torch.device(options.device))
        self._rng = np.random.default_rng([options.seed, drawn])

    @property
    def drawn(self) -> int:
        """Examples that each process has drawn."""
        return self._feed.drawn

    def losses(self, model: MiniCPMV, probes: Probes, stage: Stage, seconds: float) -> Losses:
        """Losses of one batch."""
        batch = self._feed.batch(stage, seconds)
        colours = self._rng if stage.recoloured else None
        return batch_losses(model, probes, batch, stage.weights, colours)

    def close(self) -> None:
        """Stop the processes that draw."""
        self._feed.close()
