"""One export, open: configuration, plan and checkpoint, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from export.backends.base import Backend
from export.checkpoint.checkpoint import Checkpoint
from export.config import ExportConfig
from export.models.config import ModelConfig, load_config
from export.models.preprocessor import load_preprocessing
from export.plan import Plan, build_plan
from mobile_runtime.bundle import Preprocessing

TABLES = "tables"


@dataclass(frozen=True)
class Job:
    """One export, open: what is known before anything is written."""

    folder: Path  # of the checkpoint
    model: ModelConfig
    preprocessing: Preprocessing
    plan: Plan
    backend: Backend

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The tensors; a plan does without, so that it can be made before they are there."""
        return Checkpoint(self.folder)

    @property
    def parameters(self) -> int:
        """Weights that the export stores, paddings included, with the embedding table."""
        return sum(self.part_sizes.values())

    @property
    def part_sizes(self) -> dict[str, int]:
        """Parts in the order of the bundle, with the number of their weights."""
        packages = {g.name: sum(p.size for p in g.parameters) for g in self.plan.graphs}
        decoder = self.model.decoder
        tables = {TABLES: decoder.vocab_size * decoder.hidden_size}
        return {**tables, **packages} if self.backend.has_tables else packages


def open_job(folder: Path, config: ExportConfig, backend: Backend) -> Job:
    """Read the configuration and plan; no weights."""
    model = load_config(folder)
    preprocessing = load_preprocessing(folder, model)
    plan = build_plan(config, model, preprocessing, backend)
    return Job(folder, model, preprocessing, plan, backend)
