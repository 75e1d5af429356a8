"""The journal of a run: a progress bar, and means of the losses in losses.csv."""

from __future__ import annotations

import csv
import sys

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from examples.pocket.objective import Losses
from examples.pocket.options import Options
from examples.pocket.worker import Worker

LOSSES_FILE = "losses.csv"
_LOG_STEPS = 50
_COLUMNS = ("step", "seconds", "answer", "query", "patch", "text", "exact")


class Journal:
    """A line of means every `_LOG_STEPS` steps."""

    def __init__(self, options: Options, step: int) -> None:
        self._path = options.output / LOSSES_FILE
        self._minutes = options.minutes
        self._recent: list[Tensor] = []
        lines = self._path.read_text(encoding="utf-8").splitlines() if step else []
        # Steps after the last save are taken again.
        kept = [line for line in lines[1:] if int(line.split(",")[0]) <= step]
        self._path.write_text("\n".join([",".join(_COLUMNS), *kept, ""]), encoding="utf-8")
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), transient=False)
        self._bar = self.progress.add_task("starting", total=1.0)

    def note(self, worker: Worker, losses: Losses) -> None:
        """Count one step. A GPU's numbers stay there until a line is due: reading them would wait
        for the GPU."""
        named = (getattr(losses, name) for name in _COLUMNS[2:])
        self._recent.append(torch.stack([value.detach() for value in named]))
        if worker.step % _LOG_STEPS:
            return
        means = torch.stack(self._recent).mean(0).tolist()
        self._recent.clear()
        row = [worker.step, round(worker.seconds), *(f"{mean:.4f}" for mean in means)]
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(row)
        words = ", ".join(f"{n} {m:.3f}" for n, m in zip(_COLUMNS[2:], means, strict=True))
        text = f"step {worker.step}, {worker.seconds / 60:.0f} of {self._minutes:.0f} min: {words}"
        self.progress.update(self._bar, completed=worker.share, description=text)
        if not self.progress.console.is_terminal:
            print(text, file=sys.stderr, flush=True)
