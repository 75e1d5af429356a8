"""One ML Program behind its description: features in, features out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mobile_runtime.engines.memory import Limits
from mobile_runtime.engines.mil import MilEngine, Precision
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.description import Feature
from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.mlprogram.model_file import ModelFile
from mobile_runtime.mlprogram.program import read_program
from mobile_runtime.package.inputs import read_inputs
from mobile_runtime.package.model import OpenModel, State
from mobile_runtime.package.pictures import array_to_picture


class ProgramModel(OpenModel):
    """An ML Program, ready to run."""

    def __init__(self, file: ModelFile, message: Any, precision: Precision, limits: Limits) -> None:
        super().__init__(file, message)
        self._engine = MilEngine(
            file.package,
            precision=precision,
            limits=limits,
            program=read_program(file, message),
        )
        if self.description.functions.keys() != self._engine.functions.keys():
            raise InputError(
                f"{file.package} describes the functions {', '.join(self.description.functions)} "
                f"and has {', '.join(self._engine.functions)}: it is damaged; export it again."
            )

    def new_state(self) -> State:
        """Zeros for every state."""
        return self._engine.new_state()

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


def _with_rank(value: Array, shape: tuple[int, ...] | None) -> Array:
    """A scalar of the program is described as an array of one number, and the other way round."""
    if shape is not None and value.size == 1 and () in (shape, value.shape) and len(shape) < 2:
        return value.reshape(shape if -1 not in shape else (1,))
    return value
