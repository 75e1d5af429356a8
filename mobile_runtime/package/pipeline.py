"""Models by their kind, and pipelines: models one after the other, by the names of features."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from PIL import Image

from mobile_runtime.engines.memory import Limits
from mobile_runtime.engines.mil import Precision
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.model_file import (
    PIPELINES,
    PROGRAM,
    SUPPRESSION,
    ModelFile,
    kind_in_words,
    kind_of,
    not_a_program,
)
from mobile_runtime.package.inputs import check_names
from mobile_runtime.package.model import OpenModel, State
from mobile_runtime.package.program import ProgramModel
from mobile_runtime.package.suppression import SuppressionModel

_DEEPEST = 8  # pipelines within pipelines; nobody writes more than two


def open_model(
    file: ModelFile, message: Any, precision: Precision, limits: Limits, depth: int = 0
) -> OpenModel:
    """Open the model `message` of a package. Raises `InputError` for a kind that needs Core ML."""
    kind = kind_of(message)
    if kind == PROGRAM:
        return ProgramModel(file, message, precision, limits)
    if kind == SUPPRESSION:
        return SuppressionModel(file, message)
    if kind in PIPELINES and depth < _DEEPEST:
        return PipelineModel(file, message, precision, limits, depth)
    raise not_a_program(file.package, kind)


def models_of(message: Any) -> list[tuple[str, Any]]:
    """(name, root message) of each model of a pipeline, in order."""
    inner = getattr(message, kind_of(message))
    pipeline = inner if kind_of(message) == "pipeline" else inner.pipeline
    names = list(pipeline.names) or [f"model {n + 1}" for n in range(len(pipeline.models))]
    return list(zip(names, pipeline.models, strict=False))


class PipelineModel(OpenModel):
    """Models that run one after the other. A model takes what it names of the pipeline's inputs
    and of the outputs of the models before it."""

    def __init__(
        self, file: ModelFile, message: Any, precision: Precision, limits: Limits, depth: int
    ) -> None:
        super().__init__(file, message)
        parts = models_of(message)
        for name, part in parts:
            if kind_of(part) not in (PROGRAM, SUPPRESSION, *PIPELINES):
                raise InputError(
                    f"{file.package} is a pipeline, and {name!r} in it is "
                    f"{kind_in_words(kind_of(part))}, which runs with Core ML only; convert that "
                    "model to an ML Program."
                )
        self._models = [open_model(file, part, precision, limits, depth + 1) for _, part in parts]

    def new_state(self) -> State:
        """Zeros for every state of the models."""
        return {name: array for model in self._models for name, array in model.new_state().items()}

    def run(
        self,
        given: Mapping[str, Any],
        function: str | None = None,
        state: State | None = None,
        keep: Collection[str] = (),
    ) -> dict[str, Any]:
        """The outputs of the pipeline by name."""
        interface = self.description.interface(None, self._name)
        if function not in (None, self.description.default_function) or keep:
            raise InputError(
                f"{self._name} is a pipeline, which has no functions to choose and no values to "
                "keep; leave them out."
            )
        check_names(interface, given, self._name)
        features, outputs = dict(given), dict[str, Any]()
        for model in self._models:
            taken = {name: features[name] for name in model.input_names if name in features}
            results = model.run(taken, state=state)
            outputs |= results
            features |= {name: _as_input(value) for name, value in results.items()}
        return {f.name: self._output(f.name, outputs) for f in interface.outputs}

    def _output(self, name: str, outputs: Mapping[str, Any]) -> Any:
        if name not in outputs:
            raise InputError(
                f"{self._name}: no model of the pipeline gives its output {name}: it is damaged; "
                "export it again."
            )
        return outputs[name]


def _as_input(value: Any) -> Any:
    """A picture that a model gives has an opaque fourth channel, which none takes."""
    is_opaque = isinstance(value, Image.Image) and value.mode == "RGBA"
    return value.convert("RGB") if is_opaque else value
