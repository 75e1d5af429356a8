"""What the values of a program are in memory, and what computes with them: numpy's arrays here.

The plan knows order and memory, an `Arithmetic` the values. Another one runs the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mobile_runtime.bundle import TensorSpec
from mobile_runtime.engines.states import write_beginning
from mobile_runtime.mlprogram.dtypes import ELEMENT_TYPES, Array

from .lists import TensorList
from .rounding import round_to_half

if TYPE_CHECKING:
    from .plan import CompiledFunction, Output, Step

Arguments = dict[str, Any]


class Arithmetic(Protocol):
    """One kind of values. A value is what a slot holds: an array or tensor, a `Weight`, a list, or
    an object that is no number."""

    def prepare(self, functions: Collection[CompiledFunction]) -> None:
        """Before the first call. Raises `InputError` if the weights do not fit into memory."""

    def computing(self) -> AbstractContextManager[Any]:
        """Within it, a function runs."""

    def bind(
        self, step: Step, arguments: Arguments, expand: Callable[[Any], Any]
    ) -> tuple[Callable[..., Any], Arguments]:
        """What computes a step, and the arguments in the form that it takes; `expand` makes an
        array of a `Weight`."""

    def finish(self, result: Any, output: Output) -> Any:
        """A result of a step in the type that is declared for it, rounded if it is to be."""

    def copy(self, value: Any) -> Any:
        """A copy of what may change when other operations write; others never change."""

    def overlaps(self, value: Any, region: Any) -> bool:
        """Whether `value` may share memory with the tensor `region`."""

    def memory_of(self, value: Any) -> list[tuple[Hashable, int]]:
        """The pieces of memory that `value` lies in: what identifies one, and its bytes."""

    def from_input(self, given: Array, spec: TensorSpec) -> Any:
        """The value of an input, whose shape and type were checked."""

    def zeros(self, spec: TensorSpec) -> Any:
        """A state of zeros."""

    def is_state(self, value: Any, spec: TensorSpec) -> bool:
        """Whether `value` is what `zeros` gives, with any numbers."""

    def write_beginning(self, state: Any, value: Array) -> None:
        """Overwrite the beginning of a state: along each axis as far as `value` goes."""

    def to_array(self, value: Any) -> Any:
        """An array of what is one here, which may share its memory; anything else as it is."""


def computed_type(spec: TensorSpec) -> np.dtype[np.generic]:
    """The type that arrays of `spec` are computed in: float32 for every float."""
    return ELEMENT_TYPES[spec.dtype].computed


class NumpyArithmetic:
    """Arrays of numpy, floats always float32; with `half`, what is declared half precision holds
    values of half precision. See `Arithmetic`."""

    def __init__(self, half: bool) -> None:
        self._half = half

    def prepare(self, functions: Collection[CompiledFunction]) -> None:
        """Nothing: weights stay as they are stored."""

    def computing(self) -> AbstractContextManager[Any]:
        """No warnings: what overflows is infinite, as on a device."""
        return np.errstate(all="ignore")

    def bind(
        self, step: Step, arguments: Arguments, expand: Callable[[Any], Any]
    ) -> tuple[Callable[..., Any], Arguments]:
        """The operation itself; weights as they are stored where it takes them."""
        for argument in step.arguments:
            if argument.expands:
                given = arguments[argument.parameter]
                whole = tuple(map(expand, given)) if argument.is_list else expand(given)
                arguments[argument.parameter] = whole
        return step.call, arguments

    def finish(self, result: Any, output: Output) -> Any:
        """See `Arithmetic.finish`."""
        if output.dtype is None or isinstance(result, str):
            return result
        value = np.asarray(result)
        if value.dtype != output.dtype:
            value = value.astype(output.dtype)
        return round_to_half(value) if output.rounds else value

    def copy(self, value: Any) -> Any:
        """See `Arithmetic.copy`."""
        return value.copy() if isinstance(value, np.ndarray) else value

    def overlaps(self, value: Any, region: Any) -> bool:
        """See `Arithmetic.overlaps`."""
        return isinstance(value, np.ndarray) and np.may_share_memory(value, region)

    def memory_of(self, value: Any) -> list[tuple[Hashable, int]]:
        """See `Arithmetic.memory_of`."""
        if isinstance(value, TensorList):
            return [piece for item in value.items for piece in self.memory_of(item)]
        if not isinstance(value, np.ndarray):
            return []
        while isinstance(value.base, np.ndarray):
            value = value.base
        return [(id(value), value.nbytes)]

    def from_input(self, given: Array, spec: TensorSpec) -> Array:
        """See `Arithmetic.from_input`."""
        if self._half and spec.dtype == "float16":
            return round_to_half(given.astype(np.float32))
        return given.astype(computed_type(spec), copy=False)

    def zeros(self, spec: TensorSpec) -> Array:
        """See `Arithmetic.zeros`."""
        return np.zeros(spec.shape, computed_type(spec))

    def is_state(self, value: Any, spec: TensorSpec) -> bool:
        """See `Arithmetic.is_state`."""
        return bool(value.shape == spec.shape and value.dtype == computed_type(spec))

    def write_beginning(self, state: Array, value: Array) -> None:
        """See `Arithmetic.write_beginning`."""
        write_beginning(state, value)

    def to_array(self, value: Any) -> Any:
        """The value itself."""
        return value
