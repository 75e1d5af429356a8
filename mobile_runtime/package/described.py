"""What a package holds and needs, as data: for people (`describe`) and for other programs (JSON).

It is read from the files only. What cannot run here is described too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobile_runtime.engines.mil.coverage import missing_operations
from mobile_runtime.mlprogram.census import (
    WeightForm,
    count_operations,
    count_weights,
    lost_weights,
)
from mobile_runtime.mlprogram.description import ModelDescription, describe_model
from mobile_runtime.mlprogram.model_file import (
    PIPELINES,
    PROGRAM,
    SUPPRESSION,
    ModelFile,
    kind_in_words,
    not_a_program,
    read_model,
    reading,
)
from mobile_runtime.mlprogram.program import read_program
from mobile_runtime.package.pipeline import models_of


@dataclass(frozen=True)
class PackageDescription:
    """One model of a package: what it says of itself, and what its program is made of.

    `operations` has types with counts by function, `missing` the types that the interpreter does
    not have. `damage` says what is wrong with its weight files, empty if they hold every weight.
    `models` are those of a pipeline, by name. `refused` says why it does not run here, empty if it
    does.
    """

    model: ModelDescription
    operations: Mapping[str, Mapping[str, int]]
    missing: Mapping[str, int]
    weights: tuple[WeightForm, ...]
    damage: str
    models: Mapping[str, PackageDescription]
    refused: str

    @property
    def runs(self) -> bool:
        """Whether `Package` opens it."""
        return not self.refused

    def as_json(self) -> dict[str, Any]:
        """The same as values of JSON."""
        model = asdict(self.model)
        return {
            "kind": self.model.kind,
            "kind_in_words": kind_in_words(self.model.kind),
            "runs": self.runs,
            "refused": self.refused,
            "specification_version": self.model.specification_version,
            "system": self.model.system,
            "default_function": self.model.default_function,
            "functions": model["functions"],
            "metadata": model["metadata"],
            "operations": self.operations,
            "missing": self.missing,
            "weights": [asdict(form) for form in self.weights],
            "damage": self.damage,
            "models": {name: part.as_json() for name, part in self.models.items()},
        }


def describe_package(path: str | Path) -> PackageDescription:
    """Read what the package at `path` holds, of whatever kind it is. Raises `InputError` if it is
    no package, or damaged."""
    file = read_model(Path(path))
    with reading(file.package):
        return _describe(file, file.message)


def _describe(file: ModelFile, message: Any) -> PackageDescription:
    model = describe_model(message)
    operations: dict[str, Mapping[str, int]] = {}
    missing: Mapping[str, int] = {}
    weights: tuple[WeightForm, ...] = ()
    models: dict[str, PackageDescription] = {}
    refused = damage = ""
    if model.kind == PROGRAM:
        functions = read_program(file, message).functions
        operations = {name: count_operations(function) for name, function in functions.items()}
        missing = dict(missing_operations(functions.values()).most_common())
        weights = count_weights(functions.values())
        damage = lost_weights(functions.values())
        refused = "; ".join(filter(None, (_needs(missing), damage)))
    elif model.kind in PIPELINES:
        models = {name: _describe(file, part) for name, part in models_of(message)}
        refused = "; ".join(f"{n}: {part.refused}" for n, part in models.items() if part.refused)
    elif model.kind != SUPPRESSION:
        refused = str(not_a_program(file.package.name, model.kind))
    return PackageDescription(model, operations, missing, weights, damage, models, refused)


def _needs(missing: Mapping[str, int]) -> str:
    return f"the interpreter does not have {', '.join(missing)}" if missing else ""
