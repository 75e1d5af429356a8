"""Executes a saved `.mlpackage` on any system: dict of arrays in, dict of arrays out.

"fp16" rounds as a device does: the result of every operation that is declared half precision, the
inputs and the states. "fp32" rounds nothing, which isolates what quantization costs. Arithmetic
within one operation is float32 in both. It knows no model and no bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mobile_runtime.bundle import TensorSpec
from mobile_runtime.engines.memory import Limits
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.mlprogram.model_file import reading
from mobile_runtime.mlprogram.program import ANY_SIZE, Function, Program, load_program

from . import ops as _operations  # noqa: F401 — registers them
from .arithmetic import Arithmetic, NumpyArithmetic, computed_type
from .budget import check_states
from .constexpr import WeightBuilder
from .coverage import check_operations
from .plan import compile_function
from .values import ExpandedWeights

Precision = Literal["fp32", "fp16"]
_PRECISIONS = ("fp32", "fp16")
# Budget per package, for weights that kernels do not read as they are stored: sparse ones, tables
# for groups of columns, kernels of convolutions.
CACHE_BYTES = 512 << 20


class MilEngine:
    """One package, loaded. Weights stay compressed, mapped from their file, and compiled kernels
    multiply with them. Of forms that these cannot read, `cache_bytes` of expansions are kept. A
    call may take what `limits` allow. `arithmetic` computes: numpy, if None."""

    def __init__(
        self,
        package: str | Path,
        *,
        precision: Precision = "fp16",
        cache_bytes: int = CACHE_BYTES,
        limits: Limits = Limits(),
        program: Program | None = None,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        """Load `package`, or of a pipeline's package one `program`. Raises `InputError` if it is
        damaged or has an unknown operation."""
        if precision not in _PRECISIONS:
            raise InputError(
                f"Precision {precision!r} is not known; choose one of {', '.join(_PRECISIONS)}."
            )
        self._package = package = Path(package)
        half = precision == "fp16"
        self._arithmetic = NumpyArithmetic(half) if arithmetic is None else arithmetic
        self._limits = limits
        self._program = load_program(package) if program is None else program
        check_operations(package.name, self._program.functions.values())
        check_states(package.name, [spec.shape for spec in self._states()], limits)
        weights = WeightBuilder(ExpandedWeights(cache_bytes), half)
        with reading(package):
            self._plans = {
                name: compile_function(function, weights, half)
                for name, function in self._program.functions.items()
            }
            self._arithmetic.prepare(self._plans.values())

    @property
    def functions(self) -> Mapping[str, Function]:
        """The package's functions with their inputs, outputs and states."""
        return self._program.functions

    @property
    def fallbacks(self) -> Mapping[str, int]:
        """Operations that had to leave the engine's device, with how often: none."""
        return {}

    def new_state(self, length: int = 0) -> dict[str, Any]:
        """Zeros for every state of the package, whose shapes are fixed (`length` is not used); all
        functions use the same dict."""
        return {spec.name: self._arithmetic.zeros(spec) for spec in self._states()}

    def read_state(self, state: Mapping[str, Any], name: str) -> Array:
        """The array `name` of a state, which `run` updates in place."""
        array: Array = self._arithmetic.to_array(state[name])
        return array

    def write_state(self, state: Mapping[str, Any], name: str, value: Array) -> None:
        """Overwrite the beginning of the array `name`: along each axis as far as `value` goes."""
        self._arithmetic.write_beginning(state[name], value)

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        function: str | None = None,
        state: Mapping[str, Any] | None = None,
        keep: Collection[str] = (),
    ) -> dict[str, Any]:
        """Run a function (the default one if None) and return its outputs by name.

        Floats are float32 arrays, other types int32. A classifier gives its label as `str` or
        `int` and its probabilities as a dictionary from labels to `float`. States in `state` are
        updated in place; without it the call starts from zeros. `keep` names intermediate values
        to return too. Raises
        `InputError` if inputs, states or names do not fit the function, or an operation does not
        fit its inputs or takes too much memory or work.
        """
        name = self._program.default_function if function is None else function
        chosen = self._function(name)
        values = {spec.name: self._input(spec, chosen, inputs) for spec in chosen.inputs}
        if unknown := sorted(inputs.keys() - values.keys()):
            raise self._wrong(chosen, f"has no input {', '.join(unknown)}")
        values |= self._state_arrays(chosen, self.new_state() if state is None else state)
        plan = self._plans[name]
        if absent := sorted(set(keep) - plan.names.keys()):
            raise self._wrong(chosen, f"has no value {', '.join(absent)} to keep")
        with self._arithmetic.computing():
            wanted = [spec.name for spec in chosen.outputs]
            results = plan.execute(values, wanted, keep, self._arithmetic, self._limits)
            return {key: _output(self._arithmetic.to_array(v)) for key, v in results.items()}

    def _function(self, name: str) -> Function:
        if name not in self.functions:
            raise InputError(
                f"{self._package.name} has no function {name!r}; "
                f"it has {', '.join(self.functions)}."
            )
        return self.functions[name]

    def _states(self) -> list[TensorSpec]:
        return list({s.name: s for f in self.functions.values() for s in f.states}.values())

    def _input(self, spec: TensorSpec, function: Function, inputs: Mapping[str, Array]) -> Any:
        """Return the input ready to compute with: checked, converted, rounded if it is half."""
        if spec.name not in inputs:
            raise self._wrong(function, f"needs the input {spec.name}")
        given = np.asarray(inputs[spec.name])
        wanted = computed_type(spec)
        if not _fits(given.shape, spec.shape) or not np.can_cast(given.dtype, wanted, "same_kind"):
            raise self._wrong(
                function,
                f"got {spec.name} with shape {given.shape} and type {given.dtype}, "
                f"expected {spec.shape} and {spec.dtype}",
            )
        return self._arithmetic.from_input(given, spec)

    def _state_arrays(self, function: Function, state: Mapping[str, Any]) -> dict[str, Any]:
        for spec in function.states:
            array = state.get(spec.name)
            if array is None or not self._arithmetic.is_state(array, spec):
                found = "nothing" if array is None else f"{array.shape} {array.dtype}"
                raise self._wrong(
                    function,
                    f"got {found} for the state {spec.name}, "
                    f"expected {spec.shape} {computed_type(spec)}",
                )
        return {spec.name: state[spec.name] for spec in function.states}

    def _wrong(self, function: Function, problem: str) -> InputError:
        takes = ", ".join(f"{s.name} {s.shape} {s.dtype}" for s in function.inputs)
        return InputError(
            f"Graph {self._package.name}, function {function.name!r} {problem}; its inputs are "
            f"{takes or 'none'}."
        )


def _fits(given: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether the sizes agree; a size that the program leaves open accepts any."""
    same_rank = len(given) == len(expected)
    return same_rank and all(e in (g, ANY_SIZE) for g, e in zip(given, expected, strict=True))


def _output(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    is_float = value.dtype.kind == "f"
    return value.astype(np.float32 if is_float else np.int32, copy=False)
