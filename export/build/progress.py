"""Progress of an export on stderr: a bar and lines on a terminal, only lines otherwise."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from export.build.estimate import Estimate
from export.build.parts import Part
from export.plan import Plan, count_forms
from mobile_runtime.command import Terminal


class Progress:
    """Reports to stderr. With `quiet`, prints nothing; errors are the command line's."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Terminal(stderr=True, quiet=quiet)
        self._bar = Bar(TextColumn("{task.description}"), BarColumn(), console=self._console)
        self._sizes: Mapping[str, int] = {}
        self._output = Path()
        self._finished: list[str] = []
        self._reused = 0  # weights of parts from the cache
        self._here = 0  # weights done of the part that this process builds
        self._started = 0.0

    def note(self, text: str) -> None:
        """Print one sentence that the user should read."""
        self._console.print(text, style="bold yellow")

    def plan(self, plan: Plan) -> None:
        """Print the packages that will be written."""
        table = Table("package", "functions", "blocks", "parameters", "MB", "bits/weight")
        for graph in plan.graphs:
            parameters, size = sum(p.size for p in graph.parameters), plan.package_bytes(graph)
            table.add_row(
                graph.name,
                ", ".join(function.name for function in graph.functions),
                f"{graph.blocks.start}…{graph.blocks.stop - 1}",
                f"{parameters:,}",
                f"{size / 1e6:,.1f}",
                f"{8 * size / parameters:.2f}",
            )
        self._console.print(table)
        stored = ", ".join(f"{n} × {form}" for form, n in count_forms(plan.specs).items())
        self._console.print(f"recipe {plan.recipe.name}: {stored}")
        if plan.budget is not None:
            self._console.print(
                f"the calibration chooses the bits of {len(plan.options)} of them anew, "
                f"{plan.budget:,} bytes at most"
            )

    def block(self, what: str, done: int, count: int, left: float) -> None:
        """Print one line for a block of the decoder, or another step, to which `what` was done;
        `left` is in seconds."""
        self._console.print(f"{what} {done} of {count}, about {left:.0f} s left")

    def estimate(self, estimate: Estimate) -> None:
        """Print the time and space that the export will take."""
        self._console.print(str(estimate))

    def start(self, sizes: Mapping[str, int], output: Path) -> None:
        """Begin; `sizes` is the number of weights per part, `output` the folder of the bundle."""
        self._sizes, self._output, self._started = sizes, output, time.monotonic()
        self._task = self._bar.add_task("", total=sum(sizes.values()))
        if self._console.is_terminal:
            self._bar.start()

    def advance(self, parameters: int) -> None:
        """Count weights that this process has stored."""
        self._here += parameters
        self.show({"": self._here})

    def show(self, running: Mapping[str, int]) -> None:
        """Show the bar; `running` is the number of weights done per part that is being built."""
        finished = sum(self._sizes[name] for name in self._finished)
        done, total = finished + sum(running.values()), sum(self._sizes.values())
        words = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} M parameters{self._rest(done, total)}"
        self._bar.update(self._task, completed=done, description=words)

    def finish(self, part: Part) -> None:
        """Print one line for a finished part."""
        self._finished.append(part.name)
        self._here = 0
        size = self._sizes[part.name]
        self._reused += size if part.reused else 0
        how = "taken from the cache" if part.reused else "built"
        done, total = sum(self._sizes[n] for n in self._finished), sum(self._sizes.values())
        self._console.print(
            f"[{len(self._finished)}/{len(self._sizes)}] {part.name}: {size / 1e6:,.1f} M "
            f"parameters {how} in {part.seconds:.1f} s ({size / 1e6 / part.seconds:,.0f} M/s), "
            f"peak memory {part.peak_memory / 1e9:.2f} GB, "
            f"{shutil.disk_usage(self._output).free / 1e9:.0f} GB of disk free"
            f"{self._rest(done, total)}"
        )
        if len(self._finished) == len(self._sizes):
            self.stop()

    def stop(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def _rest(self, done: int, total: int) -> str:
        """Say how much time is left at the pace so far."""
        built, elapsed = done - self._reused, time.monotonic() - self._started
        if built <= 0 or elapsed < 1 or done >= total:
            return ""
        return f", about {(total - done) * elapsed / built:.0f} s left"
