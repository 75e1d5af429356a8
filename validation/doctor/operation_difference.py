"""Which operations of a function were added, removed, or get other values.

Names do not count: converters number them, so that one more operation would rename all that
follow. Operations are alike if type, shapes and small constants are; the longest common sequence
of them is found as for lines of text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from mobile_runtime.mlprogram.program import BlobTensor, Operation
from validation.doctor.view import FunctionView, in_words

_MOST_SHOWN = 8  # numbers of a constant


@dataclass(frozen=True)
class Hunk:
    """Operations at one place, in words: those that are removed, and those that are added. If both
    are alike, `rewired` says which inputs come from elsewhere."""

    removed: tuple[str, ...]
    added: tuple[str, ...]
    rewired: str = ""


def operation_hunks(old: FunctionView, new: FunctionView) -> tuple[Hunk, ...]:
    """The differences in the order of the program."""
    left, right = old.operations, new.operations
    matcher = SequenceMatcher(
        None,
        [_signature(op, old) for op in left],
        [_signature(op, new) for op in right],
        autojunk=False,
    )
    same: dict[str, str] = {spec.name: spec.name for spec in old.function.inputs}
    same |= {spec.name: spec.name for spec in old.function.states}
    pairs: list[tuple[Operation, Operation]] = []
    hunks: list[Hunk] = []
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            pairs += zip(left[a:b], right[c:d], strict=True)
        else:
            removed = tuple(_in_words(op, old) for op in left[a:b])
            added = tuple(_in_words(op, new) for op in right[c:d])
            hunks.append(Hunk(removed, added))
    for first, second in pairs:
        ports = zip(first.outputs, second.outputs, strict=True)
        same |= {x.name: y.name for x, y in ports}
    return (*hunks, *_rewired(pairs, same, (old, new)), *_returned(same, old, new))


def _rewired(
    pairs: list[tuple[Operation, Operation]],
    same: dict[str, str],
    views: tuple[FunctionView, FunctionView],
) -> Iterator[Hunk]:
    """Alike operations whose inputs come from operations that are not alike. What is made by an
    operation that was removed is reported there."""
    old, new = views
    for first, second in pairs:
        for key in sorted(first.inputs):
            names = zip(_values(first, key, old), _values(second, key, new), strict=False)
            for x, y in names:
                if x in same and same[x] != y and y in same.values():
                    words = f"{key}: {x} → {y}"
                    yield Hunk((_in_words(first, old),), (_in_words(second, new),), words)


def _returned(same: dict[str, str], old: FunctionView, new: FunctionView) -> Iterator[Hunk]:
    for x, y in zip(old.function.block.outputs, new.function.block.outputs, strict=False):
        if x in same and same[x] != y and y in same.values():
            yield Hunk((f"returns {x}",), (f"returns {y}",), f"output: {x} → {y}")


def _values(op: Operation, key: str, view: FunctionView) -> list[str]:
    """Names of what is computed and bound to an input."""
    bound = op.inputs.get(key, ())
    return [b for b in bound if isinstance(b, str) and not view.is_fixed(b)]


def _signature(op: Operation, view: FunctionView) -> tuple[object, ...]:
    outputs = tuple((port.shape, port.dtype) for port in op.outputs)
    return op.type, outputs, tuple(sorted(_inputs(op, view))), len(op.blocks)


def _inputs(op: Operation, view: FunctionView) -> Iterator[tuple[str, str]]:
    """Each input: a small constant by its bytes, a weight by its shape, what is computed by its
    number."""
    for key, bound in op.inputs.items():
        constant = view.constant(op, key)
        if constant is None or isinstance(constant, BlobTensor):
            weights = [b for b in bound if isinstance(b, str) and view.is_fixed(b)]
            shapes = ", ".join(in_words(view.ports[name].shape) for name in weights)
            yield key, f"{len(bound)} values {shapes}"
        else:
            array = np.ascontiguousarray(constant)
            yield key, f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _in_words(op: Operation, view: FunctionView) -> str:
    """Such as "conv q_proj: 1 × 256 × 1 × 64 (groups 1)"."""
    gives = ", ".join(f"{in_words(port.shape)} {port.dtype}" for port in op.outputs)
    constants = []
    for key in sorted(op.inputs):
        values = view.constant(op, key)
        if values is None or isinstance(values, BlobTensor):
            continue
        array = np.asarray(values)
        if array.size <= _MOST_SHOWN:
            constants.append(f"{key} {np.array2string(array, separator=' ')}")
    return f"{op.type} {op.name}: {gives}" + (f" ({', '.join(constants)})" if constants else "")
