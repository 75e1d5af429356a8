"""One process's copy of the model: it learns from batches of its own, and all copies stay equal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from examples.pocket.architecture import build_model
from examples.pocket.curriculum import Schedule, Stage, stage_at
from examples.pocket.learning import Learning, OnGpu, OnProcessor
from examples.pocket.objective import Losses, Probes
from examples.pocket.optimizers import Optimizers
from examples.pocket.options import Options
from examples.pocket.state import FACTS_FILE, load_state, load_weights, save_state, write_weights


class Worker:
    """Trains one copy of the model."""

    def __init__(self, rank: int, options: Options) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(options.seed)
        self.options = options
        device = torch.device(options.device)
        self.model = build_model(options.seed).to(device)
        self.probes = Probes(self.model).to(device)
        self.parameters = [*self.model.parameters(), *self.probes.parameters()]
        self.optimizers = Optimizers({"model": self.model, "probes": self.probes})
        self.step, self.seconds = 0, 0.0
        self.schedule = Schedule(60 * options.minutes, stages=options.stages)
        self._began_with: dict[str, Any] | None = None
        drawn = 0
        if options.resume:
            drawn = self._resume()
        elif options.weights is not None:
            drawn = self._begin_with(options.weights)
        self.learning: Learning = (
            OnGpu(options, self.schedule, drawn)
            if options.on_gpu
            else OnProcessor(options, rank, drawn)
        )
        self._clock: float | None = None

    def _resume(self) -> int:
        facts = load_state(self.options.output, self.optimizers)
        self.step, self.seconds = int(facts["step"]), facts["seconds"]
        self.schedule = replace(self.schedule, begin=facts["begin"], fitting=facts["fitting"])
        self._began_with = facts["began_with"]
        return int(facts["drawn"])

    def _begin_with(self, checkpoint: Path) -> int:
        self._began_with = load_weights(checkpoint, self.model)
        self.schedule = self.schedule.from_weights(self.options.stage)
        return int(self._began_with["drawn_per_worker"])

    @property
    def share(self) -> float:
        """Share of the run's time that has passed."""
        return self.seconds / self.schedule.seconds

    def train_step(self) -> Losses:
        """One batch on every worker; all copies stay equal."""
        stage, rate = self.schedule.stage(self.seconds), self.schedule.rate(self.seconds)
        self.model.requires_grad_(stage.learns != "probes")
        losses = self.learning.losses(self.model, self.probes, stage, self.seconds)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.seconds += self._average_gradients(stage)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizers.step(rate)
        self.step += 1
        return losses

    def _average_gradients(self, stage: Stage) -> float:
        """Average over the workers, in place; returns the seconds since the last call."""
        if not dist.is_initialized():
            return self._elapsed()
        gradients = []
        for parameter in self._trained(stage):
            if parameter.grad is None:  # none of this worker's examples reached it
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = torch.cat([flat, torch.tensor([self._elapsed()])])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        sizes = [*(gradient.numel() for gradient in gradients), 1]
        *parts, seconds = torch.split(flat, sizes)
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return float(seconds)

    def _elapsed(self) -> float:
        """Seconds since the last call: CPU time of this process, on which other work on the machine
        has no effect, or with a GPU wall time, from the first batch on."""
        now = time.monotonic() if self.options.on_gpu else time.process_time()
        before, self._clock = self._clock, now
        return 0.0 if before is None else now - before

    def _trained(self, stage: Stage) -> Iterator[nn.Parameter]:
        """The parameters that the losses reach, the same on every worker."""
        weights = stage.weights
        if stage.learns == "probes":
            yield from [*self.probes.of_patches(), *self.probes.of_queries()]
            return
        if weights.answer:
            yield from [*self.model.llm.parameters(), *self.probes.of_decoder()]
        if stage.learns == "decoder":
            return
        if stage.learns == "all":
            yield from [*self.model.vpm.parameters(), *self.probes.of_patches()]
        if weights.query or weights.answer:
            yield from self.model.resampler.parameters()
            yield from self.probes.of_queries()

    def save(self) -> None:
        """State for resuming and a checkpoint that can be exported."""
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "drawn": self.learning.drawn,
            "begin": self.schedule.begin,
            "fitting": self.schedule.fitting,
            "began_with": self._began_with,
            "device": self.options.device,
        }
        save_state(self.options.output, self.optimizers, facts)
        write_weights(self.options.checkpoint, self.model)
        self._write_facts()

    def _write_facts(self) -> None:
        """Write the facts of the run that a model card has."""
        facts: dict[str, Any] = {
            "seed": self.options.seed,
            "steps": self.step,
            "minutes": round(self.seconds / 60, 1),
            "workers": self.options.workers,
            "device": torch.cuda.get_device_name() if self.options.on_gpu else "processor",
            "drawn_per_worker": self.learning.drawn,
            "collections": self.options.collections,
            "tasks": self.options.tasks,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "torch": torch.__version__,
        }
        if self._began_with is not None:
            stage = stage_at(self.schedule.begin, self.schedule.stages)
            facts |= {"first_stage": stage.name, "began_with": self._began_with}
        text = json.dumps(facts, indent=1) + "\n"
        path = self.options.checkpoint / FACTS_FILE
        path.write_text(text, encoding="utf-8")
