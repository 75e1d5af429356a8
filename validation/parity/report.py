"""The outcome of a parity run: stages with metrics, as a table, as JSON, and as an exit code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from mobile_runtime.files import write_json

Status = Literal["passed", "failed", "not run"]
_STYLES: Mapping[Status, str] = {"passed": "green", "failed": "bold red", "not run": "yellow"}


@dataclass(frozen=True)
class StageResult:
    """One stage over all prompts; decibels are the worst of them.

    `same_weights_db` compares with PyTorch holding the bundle's own weights, `checkpoint_db` with
    PyTorch holding the checkpoint's. A figure whose floor is None is reported, not judged.
    """

    stage: str
    status: Status
    same_weights_db: float | None = None
    same_weights_floor: float | None = None
    checkpoint_db: float | None = None
    checkpoint_floor: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    seconds: float | None = None
    peak_bytes: int | None = None  # see `validation.parity.meter.memory_bytes`


@dataclass(frozen=True)
class ParityReport:
    """Every stage, and what was compared."""

    bundle: str
    checkpoint: str
    recipe: str
    engine: str
    precision: str
    prompts: tuple[str, ...]
    stages: tuple[StageResult, ...]
    tools: Mapping[str, str]

    @property
    def failed(self) -> bool:
        """Whether any stage failed."""
        return any(stage.status == "failed" for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values; an exact match, infinitely many decibels, becomes "inf"."""
        value: dict[str, Any] = _finite(asdict(self))
        return value

    def write(self, path: Path) -> None:
        """Write report.json in one step."""
        write_json(path, self.as_json())

    def print(self, console: Console) -> None:
        """Print the table."""
        table = Table(Column("stage", no_wrap=True), "status", "same weights", "checkpoint")
        table.add_column("time, memory")
        table.add_column("details")
        for stage in self.stages:
            details = [f"{name} {value:.4g}" for name, value in stage.metrics.items()]
            table.add_row(
                stage.stage,
                Text(stage.status, _STYLES[stage.status]),
                _decibels(stage.same_weights_db, stage.same_weights_floor),
                _decibels(stage.checkpoint_db, stage.checkpoint_floor),
                _cost(stage),
                ", ".join(details + ([stage.note] if stage.note else [])),
            )
        console.print(table)
        console.print(
            f"{self.bundle}: recipe {self.recipe}, engine {self.engine} {self.precision}; "
            f"prompts: {', '.join(self.prompts)}"
        )


def _cost(stage: StageResult) -> str:
    if stage.seconds is None or stage.peak_bytes is None:
        return ""
    return f"{stage.seconds:.1f} s, {stage.peak_bytes / 1e9:.2f} GB"


def _decibels(value: float | None, floor: float | None) -> str:
    if value is None:
        return ""
    text = "exact" if math.isinf(value) and value > 0 else f"{value:.1f} dB"
    return text if floor is None else f"{text} (≥ {floor:g})"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
