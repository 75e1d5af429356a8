"""Which weights of two packages differ, and by how many decibels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from mobile_runtime.engines.mil.constexpr import WeightBuilder
from mobile_runtime.engines.mil.registry import UnsupportedOperation
from mobile_runtime.engines.mil.values import ExpandedWeights, Weight
from mobile_runtime.mlprogram.census import form_of
from mobile_runtime.mlprogram.program import BlobTensor, Operation
from validation.doctor.view import COMPRESSED, FunctionView, PackageView, in_words

_BLOCK_VALUES = 1 << 22  # expanded at once


@dataclass(frozen=True)
class WeightChange:
    """A weight that is in one package only, or in both with other values."""

    kind: Literal["added", "removed", "changed"]
    name: str
    before: str
    after: str


@dataclass(frozen=True)
class _Stored:
    """A weight where a function has it."""

    op: Operation
    view: FunctionView

    @property
    def shape(self) -> tuple[int, ...]:
        return self.op.outputs[0].shape

    @property
    def words(self) -> str:
        if self.op.type == "const":
            form = self.op.outputs[0].dtype or ""
        else:
            form = form_of(self.op, self.view.made)
        return f"{in_words(self.shape)} {form}"

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Name and content of everything that it is made of, compressed parts expanded first."""
        for key, part in _bound(self.op):
            if isinstance(part, str) and part in self.view.made:
                maker = self.view.made[part]
                if maker.type != "const":
                    yield key, _Stored(maker, self.view)
                    continue
                part = maker.attributes["val"]
            yield key, part

    def digest(self) -> str:
        """SHA-256 of all its parts; equal digests mean equal weights."""
        total = hashlib.sha256(f"{self.op.type} {self.shape}".encode())
        for key, part in sorted(self.parts(), key=lambda item: item[0]):
            if isinstance(part, _Stored):
                content = part.digest().encode()
            elif isinstance(part, BlobTensor):
                content = hashlib.sha256(part.packed.data).digest()
            else:
                content = np.asarray(part).tobytes()
            total.update(key.encode() + content)
        return total.hexdigest()

    def opened(self) -> Weight:
        """Its values, by rows."""
        builder = WeightBuilder(ExpandedWeights(0), rounds=False)
        if self.op.type == "const":
            return builder.stored(self.op.attributes["val"])  # type: ignore[arg-type]
        parameters = {
            key: part.opened() if isinstance(part, _Stored) else part for key, part in self.parts()
        }
        dtype = self.op.outputs[-1].dtype
        return builder.build(self.op.type, parameters, dtype)[-1]


def _bound(op: Operation) -> Iterator[tuple[str, Any]]:
    yield from ((key, bound[0]) for key, bound in op.inputs.items() if len(bound) == 1)
    yield from op.attributes.items()


def compare_weights(old: PackageView, new: PackageView) -> tuple[list[WeightChange], int]:
    """What differs, and how many weights are equal. Weights belong together by their names, those
    left over by their bytes."""
    olds, news = _weights(old), _weights(new)
    changes: list[WeightChange] = []
    equal = 0
    for name in [name for name in olds if name in news]:
        change = _compare(name, olds.pop(name), news.pop(name))
        changes += [] if change is None else [change]
        equal += change is None
    renamed = {stored.digest(): name for name, stored in news.items()} if olds and news else {}
    for name, stored in olds.items():
        other = renamed.pop(stored.digest(), None) if renamed else None
        if other is None:
            changes.append(WeightChange("removed", name, stored.words, ""))
        else:
            equal += 1
            del news[other]
    changes += [WeightChange("added", name, "", stored.words) for name, stored in news.items()]
    return changes, equal


def _compare(name: str, old: _Stored, new: _Stored) -> WeightChange | None:
    if old.digest() == new.digest():
        return None
    after = new.words
    if old.shape == new.shape:
        try:
            after += f", {_in_words(psnr_of(new.opened(), old.opened()))}"
        except UnsupportedOperation:
            after += ", not expanded here"
    return WeightChange("changed", name, old.words, after)


def _in_words(decibels: float) -> str:
    return "the same numbers" if math.isinf(decibels) else f"{decibels:.1f} dB"


def psnr_of(candidate: Weight, reference: Weight) -> float:
    """20·log10(max|reference| / rmse) in dB of two weights of one shape, a few rows at a time;
    infinite if they are equal."""
    if not reference.shape:
        candidate_rows, reference_rows = candidate.dense(), reference.dense()
        return _decibels(
            float(np.square(candidate_rows - reference_rows).sum()),
            float(np.abs(reference_rows).max()),
            1,
        )
    count = max(1, _BLOCK_VALUES // max(1, prod(reference.shape[1:])))
    squares, largest = 0.0, 0.0
    for begin in range(0, reference.shape[0], count):
        end = min(begin + count, reference.shape[0])
        rows = reference.rows(begin, end).astype(np.float64)
        squares += float(np.square(candidate.rows(begin, end) - rows).sum())
        largest = max(largest, float(np.abs(rows).max(initial=0)))
    return _decibels(squares, largest, prod(reference.shape))


def _decibels(squares: float, largest: float, count: int) -> float:
    if squares == 0:
        return math.inf
    return 20 * math.log10(largest / math.sqrt(squares / count)) if largest else -math.inf


def _weights(package: PackageView) -> dict[str, _Stored]:
    """Every weight by its name; one that functions share is there once, and a name that stands for
    different data in two functions has the second one's before it."""
    found: dict[str, _Stored] = {}
    for view in package.functions:
        for op in view.all:
            if not _is_weight(op, view):
                continue
            name, stored = op.name or op.outputs[0].name, _Stored(op, view)
            if name in found and _keys(found[name]) != _keys(stored):
                name = f"{view.name}: {name}"
            found.setdefault(name, stored)
    return found


def _is_weight(op: Operation, view: FunctionView) -> bool:
    """Whether it is stored in the weight file and used by an operation, not by another weight."""
    users = view.users.get(op.outputs[0].name, ()) if op.outputs else ()
    if users and all(user.type.startswith(COMPRESSED) for user in users):
        return False
    stored = op.type == "const" and isinstance(op.attributes.get("val"), BlobTensor)
    return stored or op.type.startswith(COMPRESSED)


def _keys(stored: _Stored) -> list[Any]:
    keys: list[Any] = []
    for _, part in stored.parts():
        if isinstance(part, _Stored):
            keys += _keys(part)
        elif isinstance(part, BlobTensor):
            keys.append(part.key)
    return keys
