"""The share of a bundle that each execution provider of onnxruntime runs, and the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mobile_runtime.bundle import read_manifest
from mobile_runtime.engines.onnx.providers import (
    PROVIDERS,
    assigned_operators,
    available_providers,
)
from mobile_runtime.model.formats import require_engine


@dataclass(frozen=True)
class Assignment:
    """One graph with one provider: operators by name and number, after onnxruntime's fusions."""

    graph: str
    provider: str
    taken: Counter[str]
    left: Counter[str]

    def describe(self) -> tuple[str, str]:
        """The share that it takes, and what it leaves to the processor."""
        names = ", ".join(f"{name} {count}" for name, count in self.left.most_common())
        return f"{self.taken.total()} of {self.taken.total() + self.left.total()}", names


def assign_providers(bundle: Path) -> Iterator[Assignment]:
    """Yield every graph with every provider of phones that this onnxruntime has. Raises
    `InputError` for a bundle without ONNX graphs."""
    manifest = read_manifest(bundle)
    require_engine(bundle, manifest, "onnx", "execution providers run only ONNX graphs")
    for graph in manifest.graphs:
        for provider in available_providers():
            counts = assigned_operators(bundle / graph.path, provider)
            yield Assignment(graph.name, provider, *counts)


def print_assignments(bundle: Path, console: Console) -> None:
    """Print a table of all, and which providers this onnxruntime lacks."""
    table = Table("graph", "provider", "operators", "left to the processor")
    for assignment in assign_providers(bundle):
        table.add_row(assignment.graph, assignment.provider, *assignment.describe())
    console.print(table)
    absent = [name for name in PROVIDERS if name not in available_providers()]
    if absent:
        console.print(f"not run, not in this onnxruntime: {', '.join(absent)}")
