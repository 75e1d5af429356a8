"""Graphs: functions over named weights, written once in the vocabulary of `Ops`.

A body calls the operations of the backend that builds it and names its weights as `Parameter`s; it
holds no weight itself, so building a graph of any size takes milliseconds and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from export.checkpoint.source import TensorReader
from export.quant.weights import Weight
from mobile_runtime.bundle import FunctionSpec, GraphSpec, Role, TensorSpec

Value = Any  # a backend's handle of an activation


@dataclass(frozen=True)
class Inverse:
    """How to restore rows of a checkpoint's tensor from the values of a parameter.

    The parameter holds rows begin … end - 1 of `tensor` (to the last if `end` is None). Unless
    `as_stored`, it holds them in another order or shape; `restore` undoes the order.
    """

    tensor: str
    begin: int = 0
    end: int | None = None
    restore: Callable[[np.ndarray], np.ndarray] = lambda values: values
    as_stored: bool = True


@dataclass(frozen=True)
class Parameter:
    """A weight of a graph, computed from checkpoint tensors when it is asked for.

    A matrix is (rows, columns) with one row per output; `load` may return fewer rows than `shape`
    says: the rest is padding. It returns a finished `Weight` if the source holds the tensor in a
    storage form. Recipes refer to matrices by `name`; vectors stay floats.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[TensorReader], np.ndarray | Weight]
    tensor: str = ""  # the checkpoint's tensor, for errors, if it is not `name`
    inverse: Inverse | None = None  # None if the tensor cannot be restored

    @property
    def label(self) -> str:
        """Name of the checkpoint's tensor, which a user can look for."""
        return self.tensor or self.name

    @property
    def is_matrix(self) -> bool:
        """Whether a recipe may quantize it."""
        return len(self.shape) == 2

    @property
    def size(self) -> int:
        """Number of values, padding included."""
        return int(np.prod(self.shape))


Linear = tuple[Parameter, Parameter | None]  # a weight and its bias


class Ops(Protocol):
    """The operations that graph bodies are written in, whatever the backend.

    An activation has `channels` and `length`; "heads" are activations split into
    (heads, head_dim, length).
    """

    def linear(self, x: Value, weight: Parameter, bias: Parameter | None = None) -> Value:
        """weight · x + bias on every position."""

    def linears(self, x: Value, layers: Sequence[Linear]) -> Sequence[Value]:
        """Several layers on the same x, which a backend may compute together."""

    def add(self, x: Value, y: Value) -> Value:
        """x + y."""

    def multiply(self, x: Value, y: Value) -> Value:
        """x · y."""

    def silu(self, x: Value) -> Value:
        """x · sigmoid(x)."""

    def gelu_tanh(self, x: Value) -> Value:
        """GELU, tanh approximation."""

    def layer_norm(self, x: Value, weight: Parameter, bias: Parameter, eps: float) -> Value:
        """Normalise over the channels."""

    def rms_norm(self, x: Value, weight: Parameter, eps: float) -> Value:
        """x / sqrt(mean(x²) + eps) · weight over the channels."""

    def heads(self, x: Value, num_heads: int) -> Value:
        """Split the channels into heads."""

    def head_rms_norm(self, x: Value, weight: Parameter, eps: float) -> Value:
        """RMS norm of every head."""

    def attend(self, q: Value, k: Value, v: Value, mask: Value, scale: float) -> Value:
        """Bidirectional attention of heads over heads, scores times scale."""

    def weighted_values(self, scores: Value, values: Value, num_heads: int) -> Value:
        """softmax of (heads · queries) scores over the length, applied to values."""


class CacheOps(Ops, Protocol):
    """`Ops`, and what a decoder with static shapes needs for its key/value cache.

    "Rows" are keys or values as (kv_heads, length, head_dim).
    """

    def rope(self, x: Value, cos: Value, sin: Value) -> Value:
        """Rotary embedding of heads in the rotate-half form."""

    def to_rows(self, x: Value) -> Value:
        """Heads -> rows."""

    def scaled(self, q: Value, k: Value, scale: float) -> tuple[Value, Value]:
        """Return q and k, each times a factor; the product of the factors is `scale`."""

    def grouped_mask(self, mask: Value, groups: int) -> Value:
        """The mask, repeated for `groups` query heads that are folded into the length."""

    def write_cache(self, state: Value, rows: Value, index: int, position: Value) -> Value:
        """Store rows in row `index` of the cache state at `position`; return that whole row."""

    def cache_row(self, cache: Value, index: int) -> Value:
        """Row `index` of a cache input."""

    def grouped_attention(
        self, q: Value, keys: Sequence[Value], values: Sequence[Value], mask: Value
    ) -> Value:
        """Grouped-query attention of heads over the rows of all `keys` together."""

    def stack_rows(self, rows: Sequence[Value]) -> Value:
        """Stack rows in the layout of a cache."""


Body = Callable[[Any, Mapping[str, Value]], Mapping[str, Value]]


@dataclass(frozen=True)
class Function:
    """A function of a graph: inputs and states by name -> outputs by name."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    body: Body

    @property
    def spec(self) -> FunctionSpec:
        """Its description in the manifest."""
        return FunctionSpec(self.name, self.inputs, self.outputs)


@dataclass(frozen=True)
class Section:
    """All blocks of one role; `build` makes the graph of some of them, with a name."""

    role: Role
    count: int
    build: Callable[[range, str], Graph]


@dataclass(frozen=True)
class Graph:
    """One package: functions that share weights and states."""

    name: str
    role: Role
    functions: tuple[Function, ...]
    states: tuple[TensorSpec, ...]
    blocks: range

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every weight, in the order of first use."""
        return tuple(
            {
                parameter.name: parameter
                for function in self.functions
                for parameter in collect_parameters(function.body)
            }.values()
        )

    def spec(self, path: str, weight_bytes: int) -> GraphSpec:
        """Its description in the manifest."""
        return GraphSpec(
            name=self.name,
            role=self.role,
            path=path,
            functions=tuple(function.spec for function in self.functions),
            states=self.states,
            blocks=(self.blocks.start, self.blocks.stop),
            parameters=sum(parameter.size for parameter in self.parameters),
            weight_bytes=weight_bytes,
        )


class _Recorder:
    """Stands in for a backend and for all its values, and notes the parameters that a body uses."""

    def __init__(self) -> None:
        self.parameters: dict[str, Parameter] = {}

    def linears(self, x: Value, layers: Sequence[Linear]) -> Sequence[Value]:
        """As many values as layers."""
        self._note(layers)
        return [self] * len(layers)

    def scaled(self, q: Value, k: Value, scale: float) -> tuple[Value, Value]:
        """A pair."""
        return self, self

    def __getattr__(self, name: str) -> _Recorder:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments: Any, **named: Any) -> _Recorder:
        self._note((*arguments, *named.values()))
        return self

    def __getitem__(self, key: Any) -> _Recorder:
        return self

    def _note(self, given: Any) -> None:
        if isinstance(given, Parameter):
            self.parameters[given.name] = given
        elif isinstance(given, list | tuple):
            for item in given:
                self._note(item)


def collect_parameters(body: Body) -> tuple[Parameter, ...]:
    """Return the weights that `body` uses, by running it without computing anything."""
    recorder = _Recorder()
    body(recorder, recorder)  # type: ignore[arg-type]  # any input is the recorder too
    return tuple(recorder.parameters.values())
