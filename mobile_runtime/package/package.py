"""`Package`: a `.mlpackage` of anyone's, opened and run on any system."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from mobile_runtime.engines.memory import Limits
from mobile_runtime.engines.mil import Precision
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.mlprogram.model_file import read_model, reading
from mobile_runtime.package.described import PackageDescription, describe_package
from mobile_runtime.package.pipeline import open_model


class PackageState:
    """The states of a package between calls, as coremltools' `MLState`. `Package.make_state` makes
    one, of zeros; `Package.predict` updates it in place."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        """Hold `arrays` by the names of the states."""
        self.arrays = arrays

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
        state[...] = given.astype(np.float16)

    def _named(self, name: str) -> Array:
        if name not in self.arrays:
            raise InputError(
                f"There is no state {name!r}; there are {', '.join(self.arrays) or 'none'}."
            )
        return self.arrays[name]


class Package:
    """One `.mlpackage`: an ML Program, or a pipeline of ML Programs and a suppression.

    Names and values are those of coremltools' `MLModel`: `predict` takes a dictionary of inputs, or
    a list of them, and gives a dictionary of outputs, or a list. Arrays come as float32 or int32,
    pictures as PIL pictures, a classifier's label as `str` or `int` and its probabilities as a
    dictionary.
    """

    def __init__(
        self, path: str | Path, *, precision: Precision = "fp16", limits: Limits = Limits()
    ) -> None:
        """Open the package at `path`.

        "fp16" rounds each result that is declared half precision, as devices do; "fp32" rounds
        none. Calls that take more than `limits` are refused. Raises `InputError` for what is no
        such package, with its right name, and `UnsupportedOperation`, which is one, with all
        operations that are missing.
        """
        self.path = Path(path)
        file = read_model(self.path)
        with reading(self.path):
            self._model = open_model(file, file.message, precision, limits)

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of its functions."""
        return tuple(self._model.description.functions)

    def describe(self) -> PackageDescription:
        """What `python -m mobile_runtime describe` prints."""
        return describe_package(self.path)

    def make_state(self) -> PackageState:
        """New states of zeros, for all functions. Raises `InputError` if the package has none."""
        arrays = self._model.new_state()
        if not arrays:
            raise InputError(f"{self.path} has no states; call predict without one.")
        return PackageState(arrays)

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
            arrays = self._arrays(state)
            return self._model.run(data, function, arrays, keep)
        if not isinstance(data, Sequence) or not all(isinstance(one, Mapping) for one in data):
            raise InputError(
                f"predict got a {type(data).__name__}; give a dictionary of inputs by name, or a "
                "list of them."
            )
        if state is not None:
            raise InputError("A state belongs to one call; give one dictionary, not a list.")
        return [self._model.run(one, function, None, keep) for one in data]

    def _arrays(self, state: PackageState | None) -> dict[str, Array] | None:
        if state is not None and not isinstance(state, PackageState):
            raise InputError(
                f"The state is a {type(state).__name__}; give what make_state() returned."
            )
        return None if state is None else state.arrays
