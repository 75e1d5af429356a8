"""A function of a program, prepared to run: constants in their places, operations bound.

Values live in numbered slots. `compile_function` turns names into slots and looks operations up;
`CompiledFunction.execute` walks the steps. It knows order and memory, not what operations do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from mobile_runtime.engines.memory import Limits
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.census import operations_of
from mobile_runtime.mlprogram.dtypes import ELEMENT_TYPES
from mobile_runtime.mlprogram.program import BlobTensor, Block, Constant, Function, Operation, Port

from .arithmetic import Arithmetic
from .budget import Budget
from .constexpr import WeightBuilder
from .liveness import Draft, MemoryPlan, plan_memory
from .ops.state import copy_state
from .registry import OPERATIONS, Definition, UnsupportedOperation
from .result_sizes import measure_of, multiplications_of
from .values import Weight, dense

_STATE_OPERATIONS = ("read_state", "write_state")


@dataclass(frozen=True, slots=True)
class Argument:
    """One input of a step: the slot, or slots, that it is read from."""

    parameter: str
    slots: tuple[int, ...]
    is_list: bool
    expands: bool  # weights are to be expanded first


@dataclass(frozen=True, slots=True)
class Output:
    """One result of a step: its slot, the type it must have, whether it is declared half precision,
    whether it is rounded to it."""

    name: str
    slot: int
    dtype: np.dtype[Any] | None
    is_half: bool
    rounds: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One bound operation. `views`: the parameter whose memory its outputs may share. `detach`: if
    it writes in place, the slots that must not change."""

    operation: Operation
    call: Callable[..., Any]
    arguments: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    blocks: tuple[NestedBlock, ...]
    views: str | None
    release: tuple[int, ...]
    detach: tuple[int, ...] | None
    measure: Callable[[Mapping[str, Any]], int] | None  # see `measure_of`
    multiplications: Callable[[Mapping[str, Any]], int] | None  # see `multiplications_of`


@dataclass(frozen=True, slots=True)
class NestedBlock:
    """A block of a `cond` or `while_loop`; it shares the slots of its function."""

    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class CompiledFunction:
    """A function ready to run. `slots` holds the constants, None elsewhere."""

    slots: tuple[Any, ...]
    names: Mapping[str, int]
    steps: tuple[Step, ...]
    copied_outputs: frozenset[int]

    def execute(
        self,
        values: Mapping[str, Any],
        outputs: Sequence[str],
        keep: Collection[str],
        arithmetic: Arithmetic,
        limits: Limits,
    ) -> dict[str, Any]:
        """Run on `values` (inputs and states by name); return `outputs` and the named `keep`.
        Raises `InputError` for an operation that does not fit its inputs or the budget."""
        slots = list(self.slots)
        for name, value in values.items():
            slots[self.names[name]] = value
        kept = {n: slots[self.names[n]] for n in keep if slots[self.names[n]] is not None}
        budget = Budget(limits, tuple(slots), arithmetic.memory_of)
        call = _Call(slots, keep, kept, arithmetic, budget)
        call.run(self.steps)
        results = {name: arithmetic.copy(dense(value)) for name, value in kept.items()}
        for name in outputs:
            slot = self.names[name]
            value = dense(slots[slot])
            results[name] = arithmetic.copy(value) if slot in self.copied_outputs else value
        return results


@dataclass(frozen=True)
class _Call:
    """One run of a function: its values by slot, and those to keep by name."""

    slots: list[Any]
    keep: Collection[str]
    kept: dict[str, Any]
    arithmetic: Arithmetic
    budget: Budget

    def run(self, steps: Sequence[Step], nested: bool = False) -> None:
        slots = self.slots
        for step in steps:
            try:
                results = self._results(step, nested)
                for output, result in zip(step.outputs, results, strict=True):
                    value = slots[output.slot] = self.arithmetic.finish(result, output)
                    if self.keep and output.name in self.keep:
                        self.kept[output.name] = self.arithmetic.copy(value)
            except InputError as error:
                raise type(error)(f"Operation {_name(step.operation)!r}: {error}") from error
            except Exception as error:
                raise _misfit(step, slots, error) from error
            for slot in step.release:
                slots[slot] = None

    def _results(self, step: Step, nested: bool) -> tuple[Any, ...]:
        arguments: dict[str, Any] = {}
        for argument in step.arguments:
            found = [self.slots[slot] for slot in argument.slots]
            arguments[argument.parameter] = tuple(found) if argument.is_list else found[0]
        call, arguments = self.arithmetic.bind(step, arguments, self._dense)
        if step.blocks:
            arguments["blocks"] = [partial(self._nested, block) for block in step.blocks]
        if step.detach is not None:
            arguments["detach"] = partial(self._detach, step.detach)
        elements = 0 if step.measure is None else step.measure(arguments)
        products = 0 if step.multiplications is None else step.multiplications(arguments)
        self.budget.take(elements, self.slots)
        self.budget.take_work(elements, products)
        if nested:
            self.budget.take_in_loop(elements)
        results = call(**arguments)
        if isinstance(results, tuple):
            return results
        return (results,) if step.outputs else ()

    def _dense(self, value: Any) -> Any:
        if isinstance(value, Weight):
            self.budget.take(prod(value.shape), self.slots)
        return dense(value)

    def _detach(self, candidates: Sequence[int], region: Any) -> None:
        """Give the values in `candidates` that share memory with `region` memory of their own."""
        for slot in candidates:
            if self.arithmetic.overlaps(self.slots[slot], region):
                self.slots[slot] = self.arithmetic.copy(self.slots[slot])

    def _nested(self, block: NestedBlock, *inputs: Any) -> tuple[Any, ...]:
        for slot, value in zip(block.inputs, inputs, strict=True):
            self.slots[slot] = value
        self.run(block.steps, nested=True)
        return tuple(self._dense(self.slots[slot]) for slot in block.outputs)


def _shape(value: Any) -> tuple[int, ...] | None:
    shape = getattr(value, "shape", None)
    return None if shape is None else tuple(shape)


def _name(op: Operation) -> str:
    return op.name or (op.outputs[0].name if op.outputs else op.type)


def _misfit(step: Step, slots: Sequence[Any], error: Exception) -> InputError:
    op = step.operation
    shapes = {
        argument.parameter: [_shape(slots[slot]) for slot in argument.slots]
        for argument in step.arguments
    }
    return InputError(
        f"Operation {_name(op)!r} of type {op.type} does not fit its inputs {str(shapes)[:300]} "
        f"({type(error).__name__}: {str(error)[:200]}): the package is damaged, or made by other "
        "rules; copy or export it again."
    )


def compile_function(function: Function, weights: WeightBuilder, half: bool) -> CompiledFunction:
    """Bind `function`. `half`: results declared float16 are rounded.

    Raises `UnsupportedOperation` for what the interpreter does not have.
    """
    nested = any(
        op.type in _STATE_OPERATIONS
        for outer in function.block.operations
        for block in outer.blocks
        for op in operations_of(block)
    )
    compiler = _Compiler(function.name, weights, half, copies_states=nested)
    for spec in (*function.inputs, *function.states):
        compiler.declare(spec.name)
    steps = compiler.steps(function.block)
    outputs = [compiler.names[name] for name in function.block.outputs]
    memory = plan_memory(
        [_draft(step) for step in steps],
        states={compiler.names[spec.name] for spec in function.states},
        owned_elsewhere={slot for slot, v in enumerate(compiler.slots) if v is not None}
        | {compiler.names[spec.name] for spec in function.inputs},
        outputs=outputs,
    )
    return CompiledFunction(
        slots=tuple(compiler.slots),
        names=compiler.names,
        steps=tuple(_with_memory(step, n, memory) for n, step in enumerate(steps)),
        copied_outputs=memory.copied_outputs,
    )


def _with_memory(step: Step, index: int, memory: MemoryPlan) -> Step:
    return replace(step, release=memory.release[index], detach=memory.detach.get(index))


def _draft(step: Step) -> Draft:
    """Summary of a step for the memory plan."""
    kind = step.operation.type
    by_name = {argument.parameter: argument.slots for argument in step.arguments}
    reads = {slot for slots in by_name.values() for slot in slots}
    viewed: set[int] = set()
    if step.blocks:
        reads |= _nested_reads(step.blocks)
        viewed = reads
    elif step.views is not None:
        viewed = set(by_name[step.views])
    return Draft(
        type=kind,
        reads=frozenset(reads),
        viewed=frozenset(viewed),
        outputs=tuple(output.slot for output in step.outputs),
        arguments={name: slots[0] for name, slots in by_name.items() if slots},
    )


def _nested_reads(blocks: Sequence[NestedBlock]) -> set[int]:
    reads: set[int] = set()
    for block in blocks:
        reads.update(block.outputs)
        for step in block.steps:
            reads.update(slot for argument in step.arguments for slot in argument.slots)
            reads |= _nested_reads(step.blocks)
    return reads


@dataclass
class _Compiler:
    """Numbers the values of one function and binds its operations."""

    function: str
    weights: WeightBuilder
    half: bool
    copies_states: bool  # blocks of loops or conditions use states: values must outlive writes
    names: dict[str, int] = field(default_factory=dict)
    slots: list[Any] = field(default_factory=list)

    def declare(self, name: str, value: Any = None) -> int:
        self.names[name] = len(self.slots)
        self.slots.append(value)
        return self.names[name]

    def steps(self, block: Block, nested: bool = False) -> list[Step]:
        """Bind the operations of `block`; constants become values of slots and no steps."""
        steps = []
        for op in block.operations:
            if op.type == "const":
                self.declare(op.outputs[0].name, self._constant(op.attributes["val"]))
            elif op.type.startswith("constexpr_"):
                for port, weight in zip(op.outputs, self._weights(op), strict=True):
                    self.declare(port.name, weight)
            else:
                steps.append(self._step(op, nested))
        return steps

    def _constant(self, value: Constant) -> Any:
        if not isinstance(value, BlobTensor):
            return value
        return self.weights.stored(value) if value.shape else self.weights.array(value)

    def _weights(self, op: Operation) -> tuple[Weight, ...]:
        parameters: dict[str, Any] = dict(op.attributes)
        for name, bindings in op.inputs.items():
            binding = bindings[0]
            parameters[name] = (
                self.slots[self.names[binding]] if isinstance(binding, str) else binding
            )
        try:
            return self.weights.build(op.type, parameters, op.outputs[-1].dtype)
        except UnsupportedOperation as error:
            raise UnsupportedOperation(f"{self._where(op)}: {error}") from error

    def _step(self, op: Operation, nested: bool) -> Step:
        definition = self._definition(op)
        arguments = tuple(
            Argument(
                name,
                tuple(self._slot(binding) for binding in bindings),
                name in definition.lists,
                name not in definition.weights,
            )
            for name, bindings in op.inputs.items()
        )
        blocks = tuple(self._nested_block(block) for block in op.blocks)
        outputs = tuple(self._output(port, definition) for port in op.outputs)
        measure = measure_of(op.type, definition.result == "viewed")
        views = definition.first if definition.result == "viewed" else None
        detach = () if nested and op.type == "write_state" else None
        return Step(
            op,
            definition.function,
            arguments,
            outputs,
            blocks,
            views,
            (),
            detach,
            measure,
            multiplications_of(op.type),
        )

    def _slot(self, binding: str | Constant) -> int:
        if isinstance(binding, str):
            return self.names[binding]
        return self.declare(f"constant {len(self.slots)}", self._constant(binding))

    def _nested_block(self, block: Block) -> NestedBlock:
        inputs = tuple(self.declare(port.name) for port in block.inputs)
        steps = tuple(self.steps(block, nested=True))
        return NestedBlock(inputs, steps, tuple(self.names[name] for name in block.outputs))

    def _output(self, port: Port, definition: Definition) -> Output:
        is_object = definition.result == "object"
        element = None if is_object else ELEMENT_TYPES.get(port.dtype or "")
        dtype = None if element is None else element.computed
        rounds = self.half and port.dtype == "float16" and definition.result == "computed"
        return Output(port.name, self.declare(port.name), dtype, port.dtype == "float16", rounds)

    def _definition(self, op: Operation) -> Definition:
        if op.type not in OPERATIONS:
            raise UnsupportedOperation(
                f"{self._where(op)}: operation {op.type} is not supported; "
                "convert the model without it."
            )
        definition = OPERATIONS[op.type]
        if op.type == "read_state" and self.copies_states:
            definition = replace(definition, function=copy_state, result="copied")
        if unknown := sorted(op.inputs.keys() - definition.parameters):
            raise UnsupportedOperation(
                f"{self._where(op)}: {op.type} with {', '.join(unknown)} is not supported; "
                f"allowed are {', '.join(sorted(definition.parameters))}."
            )
        return definition

    def _where(self, op: Operation) -> str:
        return f"Function {self.function!r}, operation {_name(op)!r}"
