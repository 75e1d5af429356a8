"""What everything that hands out tensors offers, wherever they come from.

A source hands out floats. One that holds finished weights or statistics of a calibration as well
implements `WeightSource` or `StatisticsSource`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np

from export.quant.recipe import QuantSpec
from export.quant.statistics import Statistics
from export.quant.weights import Weight
from mobile_runtime.errors import InputError

_LISTED = 12


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before it is read: its shape and numpy's name of its type."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def row_count(self) -> int:
        """Length of the first axis."""
        return (*self.shape, 1)[0]


class TensorReader(Protocol):
    """Hands out tensors by name, as floats of whatever type they are stored in."""

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
        """Changes whenever the tensor may have changed; cheap."""

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of what `read_rows` gives, or `read_weight` if the tensor is in `weights`."""


@runtime_checkable
class WeightSource(Protocol):
    """A source that holds some matrices in a storage form already. They are written as they are, if
    the target takes their form; else their floats are stored as the recipe says."""

    @property
    def weights(self) -> Mapping[str, QuantSpec]:
        """How the matrices that are finished are stored."""

    def read_weight(self, name: str, begin: int, end: int) -> Weight:
        """Rows `begin` to `end` (clipped to the tensor, whole groups) in their form."""


@runtime_checkable
class StatisticsSource(Protocol):
    """A source that knows how the inputs of some matrices are distributed."""

    @property
    def statistics_digest(self) -> str:
        """Changes whenever the statistics do: finished parts depend on them."""

    def statistics(self, name: str) -> Statistics | None:
        """What was observed for the matrix called `name`, if anything."""


def stored_weights(source: TensorReader) -> Mapping[str, QuantSpec]:
    """The matrices that `source` holds in a storage form."""
    return source.weights if isinstance(source, WeightSource) else {}


def statistics_digest(source: TensorReader) -> str:
    """That of a source with statistics; nothing for others."""
    return source.statistics_digest if isinstance(source, StatisticsSource) else ""


def bytes_of(values: np.ndarray) -> memoryview:
    """The bytes of an array in C order, without a copy where it is contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def weight_digest(weight: Weight) -> str:
    """SHA-256 of a stored weight: its layout and the bytes of all its arrays."""
    total = hashlib.sha256(repr((weight.layout, weight.shape)).encode())
    for part in fields(weight):
        value: Any = getattr(weight, part.name)
        if isinstance(value, np.ndarray):
            total.update(bytes_of(value))
    return total.hexdigest()


def content_sha256(source: TensorSource, known: Mapping[str, str] | None = None) -> str:
    """Digest over name, type, shape and content of every tensor, however they lie in files.
    `known` holds digests of whole tensors that need not be read again."""
    total = hashlib.sha256()
    for name, info in sorted(source.tensors.items()):
        digest = (known or {}).get(name) or source.digest(name, 0, info.row_count)
        total.update(json.dumps([name, info.dtype, list(info.shape), digest]).encode())
    return total.hexdigest()


def check_tensors(
    source: TensorSource, expected: Mapping[str, tuple[int, ...]], where: str, wanted: str
) -> None:
    """Compare names and shapes with `expected`; list what is missing, unexpected, misshapen.
    `where` the tensors are and which checkpoint is `wanted` stand in the error."""
    found = source.tensors
    problems = []
    if missing := expected.keys() - found.keys():
        problems.append(f"missing: {some_of(missing)}")
    if unexpected := found.keys() - expected.keys():
        problems.append(f"unexpected: {some_of(unexpected)}")
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


def some_of(names: Iterable[str]) -> str:
    """The first names of a long list, with the count of the rest."""
    ordered = sorted(names)
    rest = len(ordered) - _LISTED
    return ", ".join(ordered[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
