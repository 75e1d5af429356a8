"""One ML Program behind its description: features in, features out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.engines import EngineOptions, check_engine, torch_engine
from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.description import Feature
from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.mlprogram.model_file import ModelFile
from mobile_runtime.mlprogram.program import Program, read_program
from mobile_runtime.package.inputs import read_inputs
from mobile_runtime.package.model import OpenModel, State
from mobile_runtime.package.pictures import array_to_picture

ENGINES_OF_PACKAGES = ("mil", "torch")


class ProgramModel(OpenModel):
    """An ML Program, ready to run."""

    def __init__(self, file: ModelFile, message: Any, options: EngineOptions) -> None:
        super().__init__(file, message)
        self._engine = _open(file.package, read_program(file, message), options)
        if self.description.functions.keys() != self._engine.functions.keys():
            raise InputError(
                f"{file.package} describes the functions {', '.join(self.description.functions)} "
                f"and has {', '.join(self._engine.functions)}: it is damaged; export it again."
            )

    @property
    def fallbacks(self) -> Mapping[str, int]:
        """See `OpenModel.fallbacks`."""
        return self._engine.fallbacks

    def new_state(self) -> State:
        """Zeros for every state."""
        return self._engine.new_state()

    def read_state(self, state: State, name: str) -> Array:
        """See `OpenModel.read_state`."""
        return self._engine.read_state(state, name)

    def write_state(self, state: State, name: str, value: Array) -> None:
        """See `OpenModel.write_state`."""
        self._engine.write_state(state, name, value)

    def run(
        self,
        given: Mapping[str, Any],
        function: str | None = None,
        state: State | None = None,
        keep: Collection[str] = (),
    ) -> dict[str, Any]:
        """The outputs of a function by name, and the values `keep`."""
        interface = self.description.interface(function, self._name)
        name = self.description.default_function if function is None else function
        arrays = read_inputs(interface, given, f"{self._name}, function {name!r}")
        takes = {spec.name: spec.shape for spec in self._engine.functions[name].inputs}
        fitted = {key: _with_rank(value, takes.get(key)) for key, value in arrays.items()}
        results = self._engine.run(fitted, function=name, state=state, keep=keep)
        outputs = {feature.name: feature for feature in interface.outputs}
        return {key: self._output(outputs.get(key), key, value) for key, value in results.items()}

    def _output(self, feature: Feature | None, name: str, value: Any) -> Any:
        """As coremltools gives it: arrays have an axis at least, and labels and their
        probabilities are a text or integer and a dictionary."""
        if not isinstance(value, np.ndarray):
            return value
        if feature is not None and feature.kind == "picture":
            return array_to_picture(feature, value, self._name)
        if feature is not None and feature.dtype in ("float64", "int8"):
            value = value.astype(feature.dtype)
        return value.reshape(1) if value.ndim == 0 else value


def _open(package: Path, program: Program, options: EngineOptions) -> MilEngine:
    if options.name not in ENGINES_OF_PACKAGES:
        raise InputError(
            f"The engine {options.name!r:.40} does not run packages here; choose "
            f"{' or '.join(ENGINES_OF_PACKAGES)}."
        )
    check_engine(options)
    if options.name == "torch":
        return torch_engine()(
            package,
            device=options.device,
            precision=options.precision,
            limits=options.limits,
            program=program,
        )
    if options.observer is not None:
        from mobile_runtime.engines.mil.pairs import PairEngine

        return PairEngine(package, options.observer, limits=options.limits, program=program)
    return MilEngine(package, precision=options.precision, limits=options.limits, program=program)


def _with_rank(value: Array, shape: tuple[int, ...] | None) -> Array:
    """A scalar of the program is described as an array of one number, and the other way round."""
    if shape is not None and value.size == 1 and () in (shape, value.shape) and len(shape) < 2:
        return value.reshape(shape if -1 not in shape else (1,))
    return value
