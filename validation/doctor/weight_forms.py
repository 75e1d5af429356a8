"""How compressed weights are stored: tables and groups, and the parts that make them up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from mobile_runtime.mlprogram.program import BlobTensor, Operation
from validation.doctor.view import FunctionView, PackageView


@dataclass(frozen=True)
class Table:
    """A palettized weight: `rows` per table, and entries of `size` values."""

    shape: tuple[int, ...]
    rows: int
    groups: tuple[int, ...]
    entries: int
    size: int


def table_of(op: Operation, view: FunctionView) -> Table | None:
    """How a constexpr_lut_to_dense divides its weight among tables, None for anything else."""
    if op.type != "constexpr_lut_to_dense":
        return None
    shape, lut = op.outputs[0].shape, shape_of(op, "lut", view)
    if len(lut) < len(shape) + 2:  # of iOS 16: one table
        groups: tuple[int, ...] = (1,) * len(shape)
        entries, size = prod(lut), 1
    else:
        groups, entries, size = lut[: len(shape)], lut[-2], lut[-1]
    rows = shape[0] // max(1, groups[0]) if shape else 0
    return Table(shape, rows, groups, entries, size)


def part_of(op: Operation, key: str, view: FunctionView) -> object:
    """What a weight has under a name: a stored tensor, an array, or the name of another weight."""
    bound = op.inputs.get(key, ()) or ((op.attributes[key],) if key in op.attributes else ())
    part = bound[0] if len(bound) == 1 else None
    if isinstance(part, str) and part in view.made and view.made[part].type == "const":
        return view.made[part].attributes.get("val")
    return part


def shape_of(op: Operation, key: str, view: FunctionView) -> tuple[int, ...]:
    """Shape of a part."""
    part = part_of(op, key, view)
    if isinstance(part, str):
        return view.ports[part].shape if part in view.ports else ()
    return tuple(getattr(part, "shape", ()))


def dtype_of(op: Operation, key: str, view: FunctionView) -> str:
    """Element type of a part."""
    part = part_of(op, key, view)
    if isinstance(part, BlobTensor):
        return part.element.name
    if isinstance(part, str):
        port = view.ports.get(part)
        return (port.dtype or "") if port else ""
    return str(getattr(part, "dtype", ""))


def each_compressed(view: PackageView) -> Iterator[tuple[FunctionView, Operation]]:
    """Every compressed weight once, also if several functions share it."""
    seen = set()
    for function in view.functions:
        for op in function.compressed:
            parts = [p for p in (part_of(op, k, function) for k in _keys(op)) if p is not None]
            keys = tuple(p.key for p in parts if isinstance(p, BlobTensor))
            if not keys or keys not in seen:
                seen.add(keys)
                yield function, op


def _keys(op: Operation) -> tuple[str, ...]:
    return (*op.inputs, *op.attributes)


def name_of(op: Operation) -> str:
    """Name of a weight."""
    return op.name or op.outputs[0].name
