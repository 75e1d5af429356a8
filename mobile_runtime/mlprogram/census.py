"""What an ML Program is made of: its operations by type, and its weights by form with their bytes.

In: a `Program`. Weights are counted where the weight file has them, each once, also if several
functions use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.program import BlobTensor, Block, Function, Operation

_COMPRESSED = "constexpr_"
# Type of operation -> how its values are stored.
_FORMS = {
    "constexpr_lut_to_dense": "palettized",
    "constexpr_affine_dequantize": "quantized to",
    "constexpr_blockwise_shift_scale": "quantized to",
    "constexpr_sparse_to_dense": "sparse",
    "constexpr_cast": "stored as",
    "constexpr_lut_to_sparse": "palettized",
    "constexpr_sparse_blockwise_shift_scale": "quantized to",
}
# Inputs that hold the values themselves, not tables or scales of them.
_VALUES = (
    "indices",
    "quantized_data",
    "data",
    "nonzero_data",
    "indices_nonzero_data",
    "source_val",
)


@dataclass(frozen=True)
class WeightForm:
    """Weights that are stored in one way: how many values, and bytes with tables and scales."""

    form: str
    values: int
    bytes: int


def operations_of(block: Block) -> Iterator[Operation]:
    """All operations, those of nested blocks after the one that has them."""
    for op in block.operations:
        yield op
        for inner in op.blocks:
            yield from operations_of(inner)


def count_operations(function: Function) -> dict[str, int]:
    """Type -> how often, the most frequent first; constants are no operations."""
    counts = Counter(
        op.type
        for op in operations_of(function.block)
        if op.type != "const" and not op.type.startswith(_COMPRESSED)
    )
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def count_weights(functions: Iterable[Function]) -> tuple[WeightForm, ...]:
    """The weights by form, the largest first."""
    census = _Census()
    for function in functions:
        census.add(function)
    forms = [WeightForm(form, *census.totals[form]) for form in census.totals]
    return tuple(sorted(forms, key=lambda form: -form.bytes))


def lost_weights(functions: Iterable[Function]) -> str:
    """Why the weight files do not hold what the program expects, by the first weight that they do
    not; empty if they do. Weights are found and measured, not read."""
    for function in functions:
        for op in operations_of(function.block):
            for _, part in _parts(op):
                if isinstance(part, BlobTensor):
                    try:
                        _ = part.packed
                    except InputError as error:
                        return str(error)
    return ""


@dataclass
class _Census:
    """Values and bytes by form; `seen` holds what is counted."""

    totals: dict[str, list[int]] = field(default_factory=dict)
    seen: set[tuple[str, int]] = field(default_factory=set)

    def add(self, function: Function) -> None:
        made = {port.name: op for op in operations_of(function.block) for port in op.outputs}
        compressed = [op for op in operations_of(function.block) if op.type.startswith(_COMPRESSED)]
        parts = {name for op in compressed for name in _names(op)}
        for op in compressed:
            if not any(port.name in parts for port in op.outputs):
                self._add_compressed(op, made)
        for name, op in made.items():
            if op.type == "const" and name not in parts:
                self._add_plain(op)

    def _add_plain(self, op: Operation) -> None:
        value = op.attributes.get("val")
        if isinstance(value, BlobTensor) and value.key not in self.seen:
            self._count(value.element.name, prod(value.shape), [value])

    def _add_compressed(self, op: Operation, made: Mapping[str, Operation]) -> None:
        tensors = list(_tensors(op, made))
        if tensors and all(tensor.key in self.seen for tensor in tensors):
            return
        shape = op.outputs[0].shape
        self._count(form_of(op, made), prod(shape), tensors)

    def _count(self, form: str, values: int, tensors: Iterable[BlobTensor]) -> None:
        total = self.totals.setdefault(form, [0, 0])
        total[0] += values
        for tensor in tensors:
            if tensor.key not in self.seen:
                self.seen.add(tensor.key)
                total[1] += -(-prod(tensor.shape) * tensor.element.bits // 8)


def _parts(op: Operation) -> Iterator[tuple[str, Any]]:
    """Name and value, or name of a value, of everything that a constant is made of."""
    for name, bindings in op.inputs.items():
        for binding in bindings:
            yield name, binding
    yield from op.attributes.items()


def _names(op: Operation) -> Iterator[str]:
    return (part for _, part in _parts(op) if isinstance(part, str) and part)


def _tensors(op: Operation, made: Mapping[str, Operation]) -> Iterator[BlobTensor]:
    """Everything in the weight file that a constant is made of."""
    for _, part in _parts(op):
        if isinstance(part, BlobTensor):
            yield part
        elif isinstance(part, str) and part in made:
            yield from _tensors(made[part], made)


def form_of(op: Operation, made: Mapping[str, Operation]) -> str:
    """Such as "palettized to 4 bits" or "sparse, quantized to int8"."""
    parts = dict(_parts(op))
    values = next((parts[name] for name in _VALUES if name in parts), None)
    form = _FORMS.get(op.type, op.type.removeprefix(_COMPRESSED))
    if "lut" in parts:
        entries = _type_of(parts["lut"], made)[0]
        count = entries[-2] if len(entries) > 1 else prod(entries)
        form += f" to {(count - 1).bit_length()} bits"
    inner = made.get(values) if isinstance(values, str) else None
    if inner is not None and inner.type.startswith(_COMPRESSED):
        return f"{form}, {form_of(inner, made)}"
    return form if "lut" in parts else f"{form} {_type_of(values, made)[1]}"


def _type_of(part: Any, made: Mapping[str, Operation]) -> tuple[tuple[int, ...], str]:
    """Shape and element type of a part: a tensor of the file, an array, or a value's name."""
    if isinstance(part, BlobTensor):
        return part.shape, part.element.name
    if isinstance(part, str):
        port = next((p for p in made[part].outputs if p.name == part), None)
        return (port.shape, port.dtype or "") if port is not None else ((), "")
    return np.shape(part), str(getattr(part, "dtype", ""))
