"""The tensors in which a tool stores one quantized matrix, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.quantized.config import Quantization
from export.checkpoint.source import TensorInfo
from mobile_runtime.errors import InputError

FLOATS = ("float16", "bfloat16", "float32")


class PackedMatrix(Protocol):
    """A matrix in a tool's own storage."""

    @property
    def info(self) -> TensorInfo:
        """Shape and type of the dequantized matrix."""

    def block(self, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end`, dequantized as the tool does it."""


class Parts:
    """The parts of the matrix of module `module`, by their names after it."""

    def __init__(self, raw: Checkpoint, module: str, names: Mapping[str, str]) -> None:
        self._raw, self.module, self._names = raw, module, names

    def __contains__(self, part: str) -> bool:
        return part in self._names

    def shape(self, part: str) -> tuple[int, ...]:
        """The shape of a part."""
        return self._raw.tensors[self._names[part]].shape

    def read(self, part: str, *dtypes: str) -> np.ndarray:
        """A part, as a view of its file. Raises `InputError` if it is of none of `dtypes`."""
        found = self._raw.tensors[self._names[part]].dtype
        self.require(found in dtypes, f"the {part} is {found}, not {' or '.join(dtypes)},")
        return self._raw.read(self._names[part])

    def require(self, good: bool, problem: str) -> None:
        """Raises `InputError` with the problem of this matrix unless all is good."""
        if not good:
            shapes = ", ".join(f"{part} {list(self.shape(part))}" for part in sorted(self._names))
            raise InputError(
                f"{self._raw.folder}: {problem} of {self.module} ({shapes}); download the "
                "checkpoint again, or quantize the model again."
            )


@dataclass(frozen=True)
class Layout:
    """How a tool stores a matrix: the part by which it is known, the others that it has, those that
    it may have, and what opens them."""

    key: str
    parts: tuple[str, ...]
    optional: tuple[str, ...]
    open: Callable[[Parts, Quantization], PackedMatrix]
