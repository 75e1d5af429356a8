"""One export before anything is written: release, configuration, plan and source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from export.backends.base import Backend
from export.checkpoint import kind_of
from export.checkpoint.source import TensorSource, stored_weights
from export.config import ExportConfig
from export.models.config import ModelConfig
from export.plan import Plan, build_plan
from export.quant.recipe import QuantRecipe
from export.releases import ModelDescription, Release, describe_model
from export.releases.half_range import fit_description, fit_source

TABLES = "tables"


@dataclass(frozen=True)
class Job:
    """An opened export: the checkpoint's folder, its model, the plan and the target."""

    folder: Path  # of the checkpoint
    described: ModelDescription
    plan: Plan
    backend: Backend
    fit_half: int | None = None  # `described` and the plan are of the model with a divided stream

    @property
    def model(self) -> ModelConfig:
        """The model's sizes."""
        return self.described.config

    @property
    def release(self) -> Release:
        """The release of the model."""
        return self.described.release

    @cached_property
    def source(self) -> TensorSource:
        """The tensors, opened on first use: a plan can be made before they are downloaded."""
        source = kind_of(self.folder).open(self.folder)
        if self.fit_half is None:
            return source
        return fit_source(source, self.described, self.fit_half)

    @property
    def parameters(self) -> int:
        """Number of weights that the export stores, with padding and the embedding table."""
        return sum(self.part_sizes.values())

    @property
    def part_sizes(self) -> dict[str, int]:
        """Number of weights per part, in the order of the bundle."""
        packages = {g.name: sum(p.size for p in g.parameters) for g in self.plan.graphs}
        decoder = self.model.decoder
        tables = {TABLES: decoder.vocab_size * decoder.hidden_size}
        return {**tables, **packages} if self.backend.host_tables else packages


def open_job(
    folder: Path, config: ExportConfig, backend: Backend, recipe: QuantRecipe | None = None
) -> Job:
    """Read the configuration and plan the export, without reading weights.

    A source that holds finished weights is opened to learn how they are stored, unless they were
    not downloaded for a plan. `recipe` replaces the one that `config` names.
    """
    described, kind = describe_model(folder), kind_of(folder)
    there = any(folder.glob("*.safetensors")) or any(folder.glob("*.gguf"))
    opened = kind.holds_weights and (there or not config.plan)
    finished = stored_weights(kind.open(folder)) if opened else {}
    if config.fit_half is not None:
        described = fit_description(described, config.fit_half)
    plan = build_plan(config, described, backend, recipe=recipe, finished=finished)
    return Job(folder, described, plan, backend, config.fit_half)
