"""`python -m examples.pocket.train`: train the pocket model from nothing on generated pictures.

Every core runs a copy of the model on examples of its own; gradients are averaged each step. The
run can be stopped at any time and resumed.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tokenizers import Tokenizer
from torch import nn
from torch.multiprocessing.spawn import spawn

from examples.pocket.architecture import build_model
from examples.pocket.curriculum import (
    FITTING_SECONDS,
    Schedule,
    Stage,
    begin_of,
    stage_at,
    stage_named,
)
from examples.pocket.example import Example
from examples.pocket.floors import FLOOR_MINUTES, print_floors
from examples.pocket.objective import (
    Losses,
    Memory,
    Probes,
    Seen,
    answer_losses,
    compute_losses,
    query_losses,
)
from examples.pocket.optimizers import Optimizers
from examples.pocket.options import Options, check_options, parse_options
from examples.pocket.plot import plot_losses
from examples.pocket.pool import Pool
from examples.pocket.state import (
    FACTS_FILE,
    load_state,
    load_weights,
    prepare_checkpoint,
    save_state,
    write_weights,
)
from examples.pocket.tokenizer import build_tokenizer, words_of_the_tasks
from export.models.config import load_config
from mobile_runtime.bundle import InputError
from validation.questions.tasks import Source
from validation.sources import open_chat_format

_CHECKPOINT = "checkpoint"
_SAVE_SECONDS = 300
_LOG_STEPS = 50
_COLUMNS = ("step", "seconds", "answer", "query", "patch", "text", "exact")
_BUILD_QUESTIONS = 150  # a task, from which the tokenizer learns its words


class Worker:
    """One process's copy of the model."""

    def __init__(self, rank: int, options: Options) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(options.seed)
        self.options = options
        self.model = build_model(options.seed)
        self.probes = Probes(self.model)
        self.parameters = [*self.model.parameters(), *self.probes.parameters()]
        self.optimizers = Optimizers({"model": self.model, "probes": self.probes})
        source = Source(collections=options.collections)
        checkpoint = options.output / _CHECKPOINT
        chat_format = open_chat_format(checkpoint, load_config(checkpoint))
        self.pool = Pool(chat_format, options.seed, rank, source)
        self.rng = np.random.default_rng([options.seed, rank])
        self._seen: Seen = WeakKeyDictionary()
        self._memory: Memory = WeakKeyDictionary()
        self.step, self.seconds, self._clock = 0, 0.0, time.process_time()
        self.schedule = Schedule(60 * options.minutes)
        self._began_with: dict[str, Any] | None = None
        if options.resume:
            self._resume()
        elif options.weights is not None:
            self._begin_with(options.weights)

    def _resume(self) -> None:
        facts = load_state(self.options.output, self.optimizers)
        self.step, self.seconds = int(facts["step"]), facts["seconds"]
        self.schedule = replace(self.schedule, begin=facts["begin"], fitting=facts["fitting"])
        self._began_with = facts["began_with"]
        self.pool.skip(int(facts["drawn"]))

    def _begin_with(self, checkpoint: Path) -> None:
        self._began_with = load_weights(checkpoint, self.model)
        self.pool.skip(self._began_with["drawn_per_worker"])
        begin = begin_of(stage_named(self.options.stage))
        fitting = min(FITTING_SECONDS, self.schedule.seconds / 10)
        self.schedule = replace(self.schedule, begin=begin, fitting=fitting)

    @property
    def share(self) -> float:
        """How much of the run's time has passed."""
        return self.seconds / self.schedule.seconds

    def train_step(self) -> Losses:
        """One batch on every worker; all copies stay equal."""
        stage, rate = self.schedule.stage(self.seconds), self.schedule.rate(self.seconds)
        self.model.requires_grad_(stage.learns != "probes")
        tasks = stage.tasks_among(self.options.tasks)
        batch = self.pool.batch(stage.batch, tasks, stage.shown, stage.recoloured)
        losses = self._losses(batch, stage)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.seconds += self._average_gradients(stage)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizers.step(rate)
        self.step += 1
        return losses

    def _losses(self, batch: Sequence[Example], stage: Stage) -> Losses:
        if stage.learns == "resampler":
            return query_losses(
                self.model, self.probes, batch, stage.thinning, self.rng, self._seen
            )
        if stage.learns == "decoder":
            return answer_losses(
                self.model, self.probes, batch, stage.thinning, self.rng, self._memory
            )
        return compute_losses(
            self.model, self.probes, batch, stage.weights, stage.thinning, self.rng
        )

    def _average_gradients(self, stage: Stage) -> float:
        """Average over the workers, in place; returns the seconds since the last call."""
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
        """Seconds of this process's processor since the last call: other work on the machine does
        not use up the run's time."""
        before, self._clock = self._clock, time.process_time()
        return self._clock - before

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
            "drawn": self.pool.drawn,
            "begin": self.schedule.begin,
            "fitting": self.schedule.fitting,
            "began_with": self._began_with,
        }
        save_state(self.options.output, self.optimizers, facts)
        write_weights(self.options.output / _CHECKPOINT, self.model)
        self._write_facts()

    def _write_facts(self) -> None:
        """What a model card says of the run."""
        facts: dict[str, Any] = {
            "seed": self.options.seed,
            "steps": self.step,
            "minutes": round(self.seconds / 60, 1),
            "workers": self.options.workers,
            "drawn_per_worker": self.pool.drawn,
            "collections": self.options.collections,
            "tasks": self.options.tasks,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "torch": torch.__version__,
        }
        if self._began_with is not None:
            stage = stage_at(self.schedule.begin)
            facts |= {"first_stage": stage.name, "began_with": self._began_with}
        text = json.dumps(facts, indent=1) + "\n"
        path = self.options.output / _CHECKPOINT / FACTS_FILE
        path.write_text(text, encoding="utf-8")


class Journal:
    """Rank 0's words: a progress bar, a line of means every `_LOG_STEPS` steps in losses.csv."""

    def __init__(self, options: Options, step: int) -> None:
        self._path = options.output / "losses.csv"
        self._minutes = options.minutes
        self._recent: list[tuple[float, ...]] = []
        lines = self._path.read_text(encoding="utf-8").splitlines() if step else []
        # Steps after the last save are taken again.
        kept = [line for line in lines[1:] if int(line.split(",")[0]) <= step]
        self._path.write_text("\n".join([",".join(_COLUMNS), *kept, ""]), encoding="utf-8")
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), transient=False)
        self._bar = self.progress.add_task("starting", total=1.0)

    def note(self, worker: Worker, losses: Losses) -> None:
        """Count one step."""
        self._recent.append(
            (
                *(losses.answer, losses.query, losses.patch, losses.text),
                float(np.mean(losses.correct)),
            )
        )
        if worker.step % _LOG_STEPS:
            return
        means = np.mean(self._recent, axis=0)
        self._recent.clear()
        row = [worker.step, round(worker.seconds), *(f"{mean:.4f}" for mean in means)]
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(row)
        words = ", ".join(f"{n} {m:.3f}" for n, m in zip(_COLUMNS[2:], means, strict=True))
        text = f"step {worker.step}, {worker.seconds / 60:.0f} of {self._minutes:.0f} min: {words}"
        self.progress.update(self._bar, completed=worker.share, description=text)
        if not self.progress.console.is_terminal:
            print(text, file=sys.stderr, flush=True)


def run_worker(rank: int, options: Options) -> None:
    """Train until the time is up; rank 0 keeps the journal and saves."""
    address = f"tcp://127.0.0.1:{options.port}"
    dist.init_process_group("gloo", address, rank=rank, world_size=options.workers)
    worker = Worker(rank, options)
    journal = Journal(options, worker.step) if rank == 0 else None
    saved, parent = worker.seconds, os.getppid()
    with journal.progress if journal else nullcontext():
        while worker.share < 1:
            if os.getppid() != parent:  # killed: nobody is left to stop this process
                return
            losses = worker.train_step()
            if journal is None:
                continue
            journal.note(worker, losses)
            if worker.seconds - saved > _SAVE_SECONDS:
                worker.save()
                saved = worker.seconds
    if journal is not None:
        worker.save()
        plot_losses(options.output / "losses.csv", options.output / "losses.png")
    dist.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; 0, or 2 for a user's mistake."""
    options = parse_options(arguments, __doc__)
    try:
        check_options(options)
        if not options.resume:
            prepare_checkpoint(options.output / _CHECKPOINT, _tokenizer(options))
        spawn(run_worker, (options,), options.workers)  # type: ignore[no-untyped-call]
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; --resume goes on from the last save", file=sys.stderr)
        return 130
    if options.minutes >= FLOOR_MINUTES:
        print_floors(options.output / _CHECKPOINT, options.tasks, options.workers)
    print(options.output / _CHECKPOINT)
    return 0


def _tokenizer(options: Options) -> Tokenizer:
    if options.weights is not None:
        return Tokenizer.from_file(str(options.weights / "tokenizer.json"))
    return build_tokenizer(words_of_the_tasks(options.seed, _BUILD_QUESTIONS))


if __name__ == "__main__":
    sys.exit(main())
