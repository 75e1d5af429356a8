"""What an export says while it runs: to stderr, rich on a terminal, plain lines otherwise."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from export.plan import Plan, count_groups


class Progress:
    """Reports to stderr; `quiet` silences everything but errors, which are not its concern."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._parameters = 0
        self._packages = 0
        self._done = 0

    def note(self, text: str) -> None:
        """One sentence that the user should read."""
        self._console.print(text, style="bold yellow")

    def plan(self, plan: Plan) -> None:
        """The packages that will be written."""
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
        stored = ", ".join(f"{n} × {form}" for form, n in count_groups(plan.specs).items())
        self._console.print(f"recipe {plan.recipe.name}: {stored}")
        self._packages = len(plan.graphs) + 1

    @contextmanager
    def package(self, name: str) -> Iterator[None]:
        """Time one package."""
        started, before = time.monotonic(), self._parameters
        yield
        self._done += 1
        seconds, parameters = time.monotonic() - started, self._parameters - before
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        self._console.print(
            f"[{self._done}/{self._packages}] {name}: {parameters / 1e6:,.1f} M parameters in "
            f"{seconds:.1f} s ({parameters / 1e6 / max(seconds, 1e-9):,.0f} M/s), "
            f"peak memory {memory / 1e9:.2f} GB",
            markup=False,
        )

    def advance(self, parameters: int) -> None:
        """Count weights that have been stored."""
        self._parameters += parameters


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
