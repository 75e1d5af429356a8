"""`Package`: a `.mlpackage` of anyone's, opened and run on any system."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from mobile_runtime.engines import CPU, EngineOptions
from mobile_runtime.engines.memory import Limits
from mobile_runtime.engines.mil import Precision
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.mlprogram.model_file import read_model, reading
from mobile_runtime.package.described import PackageDescription, describe_package
from mobile_runtime.package.model import OpenModel, State
from mobile_runtime.package.pipeline import open_model


class PackageState:
    """The states of a package between calls, as coremltools' `MLState`. `Package.make_state` makes
    one, of zeros; `Package.predict` updates it in place."""

    def __init__(self, model: OpenModel, values: State) -> None:
        """Hold the states `values` of `model` by their names."""
        self._model, self.values = model, values

    def read_state(self, name: str) -> Array:
        """A copy of the state `name`, float32. Raises `InputError` for another name."""
        return self._named(name).copy()

    def write_state(self, name: str, value: Any) -> None:
        """Set the state `name` to an array of its shape; half precision is what a state holds.
        Raises `InputError` for another name or shape."""
        state, given = self._named(name), np.asarray(value)
        if given.shape != state.shape or given.dtype.kind not in "biuf":
            raise InputError(
                f"The state {name} got {given.dtype} of shape {given.shape}; give numbers of shape "
                f"{state.shape}."
            )
        self._model.write_state(self.values, name, given.astype(np.float16))

    def _named(self, name: str) -> Array:
        if name not in self.values:
            raise InputError(
                f"There is no state {name!r}; there are {', '.join(self.values) or 'none'}."
            )
        return self._model.read_state(self.values, name)


class Package:
    """One `.mlpackage`: an ML Program, or a pipeline of ML Programs and a suppression.

    Names and values are those of coremltools' `MLModel`: `predict` takes a dictionary of inputs, or
    a list of them, and gives a dictionary of outputs, or a list. Arrays come as float32 or int32,
    pictures as PIL pictures, a classifier's label as `str` or `int` and its probabilities as a
    dictionary.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        precision: Precision = "fp16",
        engine: str = "mil",
        device: str = CPU,
        limits: Limits = Limits(),
    ) -> None:
        """Open the package at `path`.

        "fp16" rounds each result that is declared half precision, as devices do; "fp32" rounds
        none. The engine "mil" computes with numpy, "torch" with PyTorch on the `device`: "cpu",
        "cuda", "mps" or another that PyTorch knows. Calls that take more than `limits` are
        refused. Raises `InputError` for what is no such package, with its right name, and
        `UnsupportedOperation`, which is one, with all operations that are missing.
        """
        self.path = Path(path)
        file = read_model(self.path)
        with reading(self.path):
            options = EngineOptions(engine, precision, device=device, limits=limits)
            self._model = open_model(file, file.message, options)

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of its functions."""
        return tuple(self._model.description.functions)

    @property
    def fallbacks(self) -> Mapping[str, int]:
        """Types of operations that the engine torch has no form of, and that numpy computes, with
        how often values had to leave the device for one so far."""
        return self._model.fallbacks

    def describe(self) -> PackageDescription:
        """What `python -m mobile_runtime describe` prints."""
        return describe_package(self.path)

    def make_state(self) -> PackageState:
        """New states of zeros, for all functions. Raises `InputError` if the package has none."""
        values = self._model.new_state()
        if not values:
            raise InputError(f"{self.path} has no states; call predict without one.")
        return PackageState(self._model, values)

    @overload
    def predict(
        self,
        data: Mapping[str, Any],
        state: PackageState | None = None,
        *,
        function: str | None = None,
        keep: Collection[str] = (),
    ) -> dict[str, Any]: ...

    @overload
    def predict(
        self,
        data: Sequence[Mapping[str, Any]],
        state: None = None,
        *,
        function: str | None = None,
        keep: Collection[str] = (),
    ) -> list[dict[str, Any]]: ...

    def predict(
        self,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        state: PackageState | None = None,
        *,
        function: str | None = None,
        keep: Collection[str] = (),
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Run `function` (None: the default one) and return its outputs by name.

        An input is an array, a number, a list or a tensor of PyTorch; a picture is a PIL picture of
        mode RGB, or L for grayscale, or the same as an array of uint8, (height, width, 3) or
        (height, width). Inputs that have a default value may be left out. Without `state` a call
        starts from zeros. `keep` names values inside of the program to return too. Raises
        `InputError` for what Core ML would refuse, such as a size out of its range.
        """
        if isinstance(data, Mapping):
            return self._model.run(data, function, self._values(state), keep)
        if not isinstance(data, Sequence) or not all(isinstance(one, Mapping) for one in data):
            raise InputError(
                f"predict got a {type(data).__name__}; give a dictionary of inputs by name, or a "
                "list of them."
            )
        if state is not None:
            raise InputError("A state belongs to one call; give one dictionary, not a list.")
        return [self._model.run(one, function, None, keep) for one in data]

    def _values(self, state: PackageState | None) -> State | None:
        if state is not None and not isinstance(state, PackageState):
            raise InputError(
                f"The state is a {type(state).__name__}; give what make_state() returned."
            )
        return None if state is None else state.values
