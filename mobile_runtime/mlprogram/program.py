"""Reads the package folder of an ML Program into plain dataclasses; nothing is executed.

In: the path of a `.mlpackage`. Out: `Program`, its functions, operations and constants. Weights
stay in the weight files: a constant that lives there is a `BlobTensor`, which reads on demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.bundle import TensorSpec
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.blob import BlobFile
from mobile_runtime.mlprogram.dtypes import (
    BY_PROGRAM_CODE,
    ELEMENT_TYPES,
    STRING_CODE,
    Array,
    ElementType,
)
from mobile_runtime.mlprogram.model_file import (
    PROGRAM,
    ModelFile,
    inside_package,
    kind_of,
    not_a_program,
    read_model,
    reading,
)
from mobile_runtime.mlprogram.packing import decode

_MODEL_PATH = "@model_path"
ANY_SIZE = -1
_GIVEN = ("string", "dictionary")  # types that outputs may have besides those of tensors


@dataclass(frozen=True)
class BlobTensor:
    """A constant in a weight file. `key` identifies its data within the package."""

    file: BlobFile
    offset: int
    element: ElementType
    shape: tuple[int, ...]

    @property
    def key(self) -> tuple[str, int]:
        """File and offset: equal keys mean equal data."""
        return self.file.path.name, self.offset

    @cached_property
    def packed(self) -> Array:
        """The stored bytes, uint8, mapped from the file."""
        return self.file.read(self.offset, self.element, prod(self.shape))


Constant = Array | str | BlobTensor


@dataclass(frozen=True)
class Port:
    """A named value: an operation's output, or an input of a function or block.

    `dtype` is "string" for text, "dictionary" for a dictionary, None for a list.
    """

    name: str
    shape: tuple[int, ...]  # ANY_SIZE if the size is known only when it runs
    dtype: str | None
    is_state: bool


@dataclass(frozen=True)
class Operation:
    """One operation. An input binds the names of values, or constants written in place."""

    type: str
    name: str
    inputs: Mapping[str, tuple[str | Constant, ...]]
    attributes: Mapping[str, Constant]
    outputs: tuple[Port, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Block:
    """A sequence of operations with the names that it takes and gives."""

    inputs: tuple[Port, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    """One function of a package. Sizes that vary from call to call are −1. The outputs of a
    classifier have the types "string" or "int64", and "dictionary"."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...]
    block: Block


@dataclass(frozen=True)
class Program:
    """A package: its functions by name, and the name of the default one."""

    functions: Mapping[str, Function]
    default_function: str


def load_program(package: Path) -> Program:
    """Read the package folder `package`. Raises `InputError` if it is not an intact ML Program."""
    with reading(package):
        file = read_model(package)
        return read_program(file, file.message)


def read_program(file: ModelFile, model: Any) -> Program:
    """Read the ML Program `model`, which is that of the package `file` or one of its pipeline.
    Raises `InputError` if it is of another kind."""
    if kind_of(model) != PROGRAM:
        raise not_a_program(file.package, kind_of(model))
    if not model.mlProgram.functions:
        raise InputError(f"{file.package} has no function; copy or export the package again.")
    reader = _Reader(file.folder, {})
    functions = {name: reader.function(name, f) for name, f in model.mlProgram.functions.items()}
    default = model.description.defaultFunctionName or "main"
    if default not in functions:
        default = next(iter(functions))
    return Program(functions, default)


@dataclass(frozen=True)
class _Reader:
    """Turns protobuf messages into dataclasses. `files` holds each opened weight file once."""

    folder: Path
    files: dict[str, BlobFile]

    def function(self, name: str, message: Any) -> Function:
        if message.opset not in message.block_specializations:
            raise InputError(
                f"Function {name!r} has no program for its operation set {message.opset!r}; "
                "export the package again."
            )
        block = self.block(message.block_specializations[message.opset])
        ports = [_port(item) for item in message.inputs]
        made = {port.name: port for op in block.operations for port in op.outputs}
        made |= {port.name: port for port in ports}
        return Function(
            name=name,
            inputs=tuple(_spec(port) for port in ports if not port.is_state),
            outputs=tuple(_spec(made[output], _GIVEN) for output in block.outputs),
            states=tuple(_spec(port) for port in ports if port.is_state),
            block=block,
        )

    def block(self, message: Any) -> Block:
        return Block(
            inputs=tuple(_port(item) for item in message.inputs),
            operations=tuple(self.operation(item) for item in message.operations),
            outputs=tuple(message.outputs),
        )

    def operation(self, message: Any) -> Operation:
        attributes = {name: self.constant(item) for name, item in message.attributes.items()}
        return Operation(
            type=message.type,
            name=str(attributes.pop("name", "")),
            inputs={name: self.bindings(item) for name, item in message.inputs.items()},
            attributes=attributes,
            outputs=tuple(_port(item) for item in message.outputs),
            blocks=tuple(self.block(item) for item in message.blocks),
        )

    def bindings(self, message: Any) -> tuple[str | Constant, ...]:
        """Names as they are; strings written in place become arrays, to tell them from names."""
        bound: list[str | Constant] = []
        for item in message.arguments:
            if item.WhichOneof("binding") == "name":
                bound.append(item.name)
                continue
            value = self.constant(item.value)
            bound.append(np.array(value) if isinstance(value, str) else value)
        return tuple(bound)

    def constant(self, message: Any) -> Constant:
        tensor = message.type.tensorType
        shape = _shape(tensor)
        if ANY_SIZE in shape:
            raise InputError("A constant of the program has no fixed shape; export it again.")
        if message.WhichOneof("value") == "blobFileValue":
            blob = message.blobFileValue
            return BlobTensor(self.file(blob.fileName), blob.offset, _element(tensor), shape)
        immediate = message.immediateValue
        if immediate.WhichOneof("value") in ("list", "tuple"):
            items = getattr(immediate, immediate.WhichOneof("value")).values
            return np.array([self.constant(item) for item in items])
        field = immediate.tensor.WhichOneof("value")
        values = getattr(immediate.tensor, field).values if field else ()
        if tensor.dataType == STRING_CODE:
            text = np.array(list(values)).reshape(shape)
            return text if shape else str(text)
        return _immediate(_element(tensor), values, shape)

    def file(self, name: str) -> BlobFile:
        if name not in self.files:
            relative = name.removeprefix(_MODEL_PATH).lstrip("/")
            self.files[name] = BlobFile(inside_package(self.folder, relative))
        return self.files[name]


def _immediate(element: ElementType, values: Any, shape: tuple[int, ...]) -> Array:
    if isinstance(values, bytes):
        return decode(np.frombuffer(values, np.uint8), element, shape)
    return np.array(values, element.computed).reshape(shape)


def _element(tensor: Any) -> ElementType:
    if tensor.dataType not in BY_PROGRAM_CODE:
        raise InputError(
            f"The program uses element type {tensor.dataType}, which this program does not read; "
            f"allowed are {', '.join(e.name for e in BY_PROGRAM_CODE.values())}."
        )
    return BY_PROGRAM_CODE[tensor.dataType]


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(
        item.constant.size if item.WhichOneof("dimension") == "constant" else ANY_SIZE
        for item in tensor.dimensions
    )


def _port(message: Any) -> Port:
    kind = message.type.WhichOneof("type")
    inner = message.type.stateType.wrappedType if kind == "stateType" else message.type
    if inner.WhichOneof("type") != "tensorType":
        other = "dictionary" if inner.WhichOneof("type") == "dictionaryType" else None
        return Port(message.name, (), other, is_state=False)
    tensor = inner.tensorType
    dtype = "string" if tensor.dataType == STRING_CODE else _element(tensor).name
    return Port(message.name, _shape(tensor), dtype, is_state=kind == "stateType")


def _spec(port: Port, others: tuple[str, ...] = ()) -> TensorSpec:
    if port.dtype is None or port.dtype not in (*ELEMENT_TYPES, *others):
        raise InputError(
            f"{port.name!r:.80} is an input, output or state of the program and no tensor of "
            "numbers; export the package again."
        )
    return TensorSpec(port.name, port.shape, port.dtype)
