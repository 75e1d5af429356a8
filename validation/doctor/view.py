"""A program as rules ask about it: who makes a value, who uses it, which constants are known.

Nothing is computed. Weights stay in their file; a rule that needs values of one asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from mobile_runtime.mlprogram.census import operations_of
from mobile_runtime.mlprogram.description import Interface, ModelDescription
from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.mlprogram.packing import decode
from mobile_runtime.mlprogram.program import (
    BlobTensor,
    Constant,
    Function,
    Operation,
    Port,
    Program,
)
from validation.planner.devices import Device

COMPRESSED = "constexpr_"
# What changes the form of a value and not its numbers.
RESHAPING = frozenset(
    ("reshape", "transpose", "expand_dims", "squeeze", "identity", "slice_by_index", "cast")
)


@dataclass(frozen=True)
class FunctionView:
    """One function of a package."""

    name: str
    function: Function
    package: PackageView

    @cached_property
    def all(self) -> tuple[Operation, ...]:
        """Every operation, constants and those of nested blocks included."""
        return tuple(operations_of(self.function.block))

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """Those that compute something when the model runs."""
        return tuple(
            op for op in self.all if op.type != "const" and not op.type.startswith(COMPRESSED)
        )

    @cached_property
    def compressed(self) -> tuple[Operation, ...]:
        """Those that expand stored weights."""
        return tuple(op for op in self.all if op.type.startswith(COMPRESSED))

    @cached_property
    def made(self) -> Mapping[str, Operation]:
        """Name of a value -> the operation that makes it; inputs have none."""
        return {port.name: op for op in self.all for port in op.outputs}

    @cached_property
    def ports(self) -> Mapping[str, Port]:
        """Name of a value -> its shape and type, inputs and states included."""
        given = [*self.function.inputs, *self.function.states]
        ports = {s.name: Port(s.name, s.shape, s.dtype, is_state=False) for s in given}
        return ports | {port.name: port for op in self.all for port in op.outputs}

    @cached_property
    def users(self) -> Mapping[str, tuple[Operation, ...]]:
        """Name of a value -> the operations that take it."""
        users: dict[str, list[Operation]] = {}
        for op in self.all:
            for name in self.takes(op):
                users.setdefault(name, []).append(op)
        return {name: tuple(ops) for name, ops in users.items()}

    @property
    def interface(self) -> Interface:
        """What the model's description says of it."""
        return self.package.description.functions.get(self.name, Interface((), (), ()))

    @staticmethod
    def takes(op: Operation) -> Iterator[str]:
        """Names of the values that an operation takes."""
        return (b for bound in op.inputs.values() for b in bound if isinstance(b, str))

    @staticmethod
    def named(op: Operation, key: str) -> str:
        """Name of the value bound to an input, empty if it is a constant in place or absent."""
        bound = op.inputs.get(key, ())
        return bound[0] if len(bound) == 1 and isinstance(bound[0], str) else ""

    def port(self, op: Operation, key: str) -> Port | None:
        """Shape and type of what is bound to an input, None for a constant in place."""
        return self.ports.get(self.named(op, key))

    def shape(self, op: Operation, key: str) -> tuple[int, ...]:
        """Shape of what is bound to an input; () if there is none."""
        port = self.port(op, key)
        if port is not None:
            return port.shape
        bound = self.constant(op, key)
        return () if bound is None else tuple(np.shape(bound)) or getattr(bound, "shape", ())

    def constant(self, op: Operation, key: str) -> Constant | None:
        """The constant bound to an input, None if it is computed, compressed or absent."""
        bound = op.inputs.get(key, ())
        if len(bound) != 1:
            return op.attributes.get(key)
        if not isinstance(bound[0], str):
            return bound[0]
        maker = self.made.get(bound[0])
        return maker.attributes.get("val") if maker and maker.type == "const" else None

    def values(self, op: Operation, key: str, most: int = 1 << 22) -> Array | None:
        """The numbers of a constant, read from the weight file if they are at most `most`."""
        constant = self.constant(op, key)
        if isinstance(constant, BlobTensor):
            if prod(constant.shape) > most:
                return None
            return decode(constant.packed, constant.element, constant.shape)
        if constant is None or isinstance(constant, str) or constant.dtype.kind in "US":
            return None
        return constant

    def number(self, op: Operation, key: str) -> float | None:
        """A constant of one number."""
        values = self.values(op, key, 1)
        return None if values is None or values.size != 1 else float(values.reshape(-1)[0])

    def text(self, op: Operation, key: str) -> str:
        """A constant text, empty if there is none."""
        constant = self.constant(op, key)
        return "" if constant is None or isinstance(constant, BlobTensor) else str(constant)

    def is_fixed(self, name: str) -> bool:
        """Whether a value is the same at every call: a constant or an expanded weight."""
        maker = self.made.get(name)
        return maker is not None and (maker.type == "const" or maker.type.startswith(COMPRESSED))

    def varies(self, op: Operation, key: str) -> bool:
        """Whether an input is bound to a value that is computed or given at each call."""
        bound = op.inputs.get(key, ())
        return any(isinstance(b, str) and not self.is_fixed(b) for b in bound)

    def maker(self, name: str, passing: Iterable[str] = RESHAPING) -> Operation | None:
        """The operation behind a value, seen through those of the types `passing`."""
        op = self.made.get(name)
        while op is not None and op.type in passing:
            op = self.made.get(self.named(op, "x"))
        return op

    def behind(self, op: Operation, key: str, passing: Iterable[str] = RESHAPING) -> str:
        """Type of the operation behind an input, empty if it is given from outside."""
        found = self.maker(self.named(op, key), passing)
        return "" if found is None else found.type

    def followers(self, op: Operation, passing: Iterable[str] = RESHAPING) -> Iterator[Operation]:
        """The operations that take what `op` makes, seen through those of the types `passing`."""
        left = [port.name for port in op.outputs]
        while left:
            for user in self.users.get(left.pop(), ()):
                if user.type in passing:
                    left += [port.name for port in user.outputs]
                else:
                    yield user


@dataclass(frozen=True)
class PackageView:
    """One ML Program: a package, or one model of its pipeline. `device` is where it shall run,
    None for any."""

    name: str
    model: str
    path: Path
    program: Program
    description: ModelDescription
    device: Device | None = None

    @cached_property
    def functions(self) -> tuple[FunctionView, ...]:
        """Its functions, in the order of the description."""
        functions = self.program.functions
        order = [name for name in self.description.functions if name in functions]
        order += [name for name in functions if name not in order]
        return tuple(FunctionView(name, functions[name], self) for name in order)

    @cached_property
    def tensors(self) -> Mapping[tuple[str, int], tuple[BlobTensor, str]]:
        """Everything in the weight files, once, with the name of an operation that has it."""
        found: dict[tuple[str, int], tuple[BlobTensor, str]] = {}
        for view in self.functions:
            for op in view.all:
                bound = [b for bindings in op.inputs.values() for b in bindings]
                for part in [*op.attributes.values(), *bound]:
                    if isinstance(part, BlobTensor):
                        found.setdefault(part.key, (part, op.name or op.outputs[0].name))
        return found

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of the weight files that it names."""
        files = {tensor.file.path for tensor, _ in self.tensors.values()}
        return sum(path.stat().st_size for path in files)

    @cached_property
    def converter(self) -> tuple[int, ...]:
        """Version of coremltools that it says it was written by, such as (9, 0); () if none."""
        return version_of(self.description.metadata.get("com.github.apple.coremltools.version", ""))

    @cached_property
    def torch(self) -> tuple[int, ...]:
        """Version of PyTorch that it says it was traced by; () if none."""
        source = self.description.metadata.get("com.github.apple.coremltools.source", "")
        return version_of(source.partition("torch==")[2])


@dataclass(frozen=True)
class BundleView:
    """All packages that are opened together."""

    name: str
    packages: tuple[PackageView, ...]
    device: Device | None = None


def version_of(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "9.1.dev1" -> (9, 1)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def in_words(shape: Iterable[int]) -> str:
    """A shape, such as "1 × 64 × 1 × 32"; sizes that vary are "?"."""
    return " × ".join("?" if size < 0 else str(size) for size in shape)
