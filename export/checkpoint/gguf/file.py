"""One GGUF file: its metadata, and its tensors as blocks in the mapped file.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3,
little-endian.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers "bfloat16" with numpy)
import numpy as np

from export.checkpoint.gguf.blocks import BLOCK_TYPES, BlockType
from mobile_runtime.errors import InputError
from mobile_runtime.files import file_identity

# struct's letters of the types of metadata, by their number; 8 is a string, 9 an array.
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST, _MOST_AXES, _ALIGNMENT = 1 << 20, 4, 32


@dataclass(frozen=True, eq=False)
class GgufTensor:
    """Rows of blocks: `octets` (rows, bytes per row), a view of the file."""

    shape: tuple[int, ...]
    kind: BlockType
    octets: np.ndarray
    identity: tuple[int, ...]  # of the file

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` of blocks, in their type or dequantized to float32."""
        octets = self.octets[begin:end]
        if self.kind.expand is None:
            return np.ascontiguousarray(octets).view(self.kind.dtype)
        blocks = np.ascontiguousarray(octets).reshape(-1, self.kind.size)
        return self.kind.expand(blocks).reshape(len(octets), -1)


class GgufFile:
    """The metadata and tensors of one file. Opening it checks that the tensors lie in the file."""

    def __init__(self, path: Path) -> None:
        try:
            self._data = np.memmap(path, np.uint8, "c")
            self._at = 0
            if self._bytes(4) != b"GGUF" or self._read("I") not in (2, 3):
                raise ValueError("it is no GGUF of version 2 or 3")
            tensors, entries = self._read("Q"), self._read("Q")
            if max(tensors, entries) > _MOST:
                raise ValueError("it has more tensors than a model")
            self.metadata = {self._string(): self._value(self._read("I")) for _ in range(entries)}
            described = [self._describe() for _ in range(tensors)]
            alignment = self.metadata.get("general.alignment", _ALIGNMENT)
            if not isinstance(alignment, int) or not 0 < alignment <= _MOST:
                raise ValueError("its alignment is no size")
            first = -(-self._at // alignment) * alignment
            identity = file_identity(path)
            self.tensors = {
                name: GgufTensor(shape, kind, self._place(first + offset, shape, kind), identity)
                for name, shape, kind, offset in described
            }
        except (ValueError, OSError, struct.error) as error:
            raise InputError(
                f"{path} is truncated or not a GGUF file that is read ({error}); download it again."
            ) from error

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ValueError("it ends too early")
        self._at += count
        return self._data[self._at - count : self._at].tobytes()

    def _read(self, letter: str) -> Any:
        (value,) = struct.unpack(f"<{letter}", self._bytes(struct.calcsize(f"<{letter}")))
        return value

    def _string(self) -> str:
        return self._bytes(self._read("Q")).decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        """A value of the metadata; None for an array, which is skipped."""
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._read(_SCALARS[kind])
        if kind != _ARRAY:
            raise ValueError(f"its metadata has a value of type {kind}")
        inner, count = self._read("I"), self._read("Q")
        if inner in _SCALARS:
            self._bytes(count * struct.calcsize(f"<{_SCALARS[inner]}"))
        elif inner == _STRING and count <= _MOST:
            for _ in range(count):
                self._bytes(self._read("Q"))
        else:
            raise ValueError(f"its metadata has an array of type {inner}")
        return None

    def _describe(self) -> tuple[str, tuple[int, ...], BlockType, int]:
        name, axes = self._string(), self._read("I")
        if not 0 < axes <= _MOST_AXES:
            raise ValueError(f"{name} has {axes} axes")
        shape = tuple(self._read("Q") for _ in range(axes))[::-1]
        number, offset = self._read("I"), self._read("Q")
        if number not in BLOCK_TYPES:
            known = ", ".join(kind.name for kind in BLOCK_TYPES.values())
            raise ValueError(f"{name} is of type {number}; read are {known}")
        kind = BLOCK_TYPES[number]
        if shape[-1] % kind.count or 0 in shape:
            raise ValueError(f"{name} is {list(shape)}, which blocks of {kind.name} do not divide")
        return name, shape, kind, offset

    def _place(self, begin: int, shape: tuple[int, ...], kind: BlockType) -> np.ndarray:
        width = shape[-1] // kind.count * kind.size
        end = begin + math.prod(shape[:-1]) * width
        if end > len(self._data):
            raise ValueError("it ends too early")
        return np.asarray(self._data[begin:end]).reshape(-1, width)
