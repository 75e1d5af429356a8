"""Interfaces of tensor sources, wherever the tensors come from.

A source returns floats. One that also holds finished weights or statistics of a calibration
implements `WeightSource` or `StatisticsSource`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np

from export.quant.recipe import QuantSpec
from export.quant.statistics import Statistics
from export.quant.weights import Weight
from mobile_runtime.errors import InputError

_LISTED = 12
_DIGESTED = 1 << 24  # values that are read together for a digest


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's shape and numpy's name of its type, known before it is read."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def row_count(self) -> int:
        """Length of the first axis."""
        return (*self.shape, 1)[0]


class TensorReader(Protocol):
    """Reads tensors by name, as floats of the type in which they are stored."""

    def read(self, name: str) -> np.ndarray:
        """The whole tensor."""

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor) of a tensor of at least one axis."""


class TensorSource(TensorReader, Protocol):
    """The tensors of a checkpoint, wherever they come from."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Names, shapes and types of all tensors."""

    def identity(self, name: str) -> tuple[int, ...]:
        """Return numbers that change whenever the tensor may have changed; cheap."""

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of what `read_rows` returns, or `read_weight` for a tensor in `weights`."""


@runtime_checkable
class WeightSource(Protocol):
    """A source that holds some matrices in a storage form already.

    They are written as they are if the target supports their form; otherwise they are dequantized
    and stored as the recipe says.
    """

    @property
    def weights(self) -> Mapping[str, QuantSpec]:
        """Specifications of the matrices in a storage form, by name."""

    def read_weight(self, name: str, begin: int, end: int) -> Weight:
        """Rows `begin` to `end` (clipped to the tensor, whole groups) in their storage form."""


@runtime_checkable
class StatisticsSource(Protocol):
    """A source with statistics of the inputs of some matrices."""

    @property
    def statistics_digest(self) -> str:
        """A digest that changes whenever the statistics do: finished parts depend on them."""

    def statistics(self, name: str) -> Statistics | None:
        """The statistics of the matrix called `name`, or None."""


def stored_weights(source: TensorReader) -> Mapping[str, QuantSpec]:
    """Specifications of the matrices that `source` holds in a storage form, by name."""
    return source.weights if isinstance(source, WeightSource) else {}


def statistics_digest(source: TensorReader) -> str:
    """The digest of the statistics of `source`; empty if it has none."""
    return source.statistics_digest if isinstance(source, StatisticsSource) else ""


def bytes_of(values: np.ndarray) -> memoryview:
    """The bytes of an array in C order, without a copy if it is contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def rows_digest(source: TensorReader, name: str, rows: range) -> str:
    """SHA-256 of the bytes of some rows of a tensor, `rows.step` of which are read together."""
    total = hashlib.sha256()
    for begin in rows:
        total.update(bytes_of(source.read_rows(name, begin, min(begin + rows.step, rows.stop))))
    return total.hexdigest()


def weight_digest(weight: Weight) -> str:
    """SHA-256 of a stored weight: its layout and the bytes of all its arrays."""
    total = hashlib.sha256(repr((weight.layout, weight.shape)).encode())
    for part in fields(weight):
        value: Any = getattr(weight, part.name)
        if isinstance(value, np.ndarray):
            total.update(bytes_of(value))
    return total.hexdigest()


def fresh_digest(source: TensorSource, name: str, begin: int, end: int) -> str:
    """What `source.digest` is to return, computed: a part of the rows at a time, or of the finished
    weight."""
    if name in stored_weights(source):
        assert isinstance(source, WeightSource)
        return weight_digest(source.read_weight(name, begin, end))
    step = max(1, _DIGESTED // math.prod(source.tensors[name].shape[1:]))
    return rows_digest(source, name, range(begin, end, step))


def content_sha256(source: TensorSource, known: Mapping[str, str] | None = None) -> str:
    """Digest over name, type, shape and content of every tensor, however they are split into files.

    `known` holds digests of whole tensors, which are not read again.
    """
    total = hashlib.sha256()
    for name, info in sorted(source.tensors.items()):
        digest = (known or {}).get(name) or source.digest(name, 0, info.row_count)
        total.update(json.dumps([name, info.dtype, list(info.shape), digest]).encode())
    return total.hexdigest()


def check_tensors(
    source: TensorSource,
    expected: Mapping[str, tuple[int, ...]],
    where: str,
    wanted: str,
    tied: Mapping[str, str] | None = None,
) -> None:
    """Raises `InputError` unless the names and shapes of the tensors are those of `expected`. A
    tensor that is `tied` to another one may stand beside them if it equals that.

    The error lists what is missing, unexpected or of another shape, and names the checkpoint
    (`where`) and the release that was `wanted`.
    """
    found = source.tensors
    problems = []
    unexpected = found.keys() - expected.keys()
    for name, other in (tied or {}).items():
        if name in unexpected and _are_equal(source, name, other):
            unexpected.remove(name)
        elif name in unexpected:
            problems.append(f"{name} is not {other}, to which tie_word_embeddings ties it")
    if missing := expected.keys() - found.keys():
        problems.append(f"missing: {some_of(missing)}")
    if unexpected:
        problems.append(f"unexpected: {some_of(unexpected)}")
    if missing and (prefix := _prefix(found, expected)):
        problems = [f"its names begin with {prefix!r}, as those of a model inside another do"]
    wrong = [
        f"{name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    if wrong:
        problems.append(f"wrong shape: {some_of(wrong)}")
    if problems:
        raise InputError(
            f"{where} does not fit its config.json; {'; '.join(problems)}; "
            f"give a complete {wanted} checkpoint."
        )


def _are_equal(source: TensorSource, name: str, other: str) -> bool:
    first, second = (source.tensors.get(one) for one in (name, other))
    if first is None or first != second:
        return False
    rows = first.shape[0]
    return source.digest(name, 0, rows) == source.digest(other, 0, rows)


def _prefix(found: Iterable[str], expected: Iterable[str]) -> str:
    """What all expected names have before them, as a wrapped model's do; "" if nothing."""
    names, wanted = set(found), list(expected)
    ends = (name.removesuffix(wanted[0]) for name in names if name.endswith(wanted[0]))
    return next((p for p in ends if p and all(p + name in names for name in wanted)), "")


def some_of(names: Iterable[str]) -> str:
    """The first names of a long list, with the count of the rest."""
    ordered = sorted(names)
    rest = len(ordered) - _LISTED
    return ", ".join(ordered[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
