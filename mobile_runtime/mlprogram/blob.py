"""A weight file of a package: MILBlob storage, version 2, mapped into memory.

A 64-byte header (blob count, version), then blobs: 64 bytes of metadata (sentinel, element type,
size and offset of the data, unused bits at its end), all little-endian. Every read is checked
against the file, so that a damaged file raises an error and never gives wrong numbers.
"""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path

import numpy as np

from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.dtypes import Array, ElementType

_HEADER = struct.Struct("<II")
_METADATA = struct.Struct("<IIQQQ")
_HEADER_BYTES = 64
_METADATA_BYTES = 64
_SENTINEL = 0xDEADBEEF
_VERSION = 2


class BlobFile:
    """One weight file, opened when it is first read: a program can be described without it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _bytes(self) -> Array:
        """The file. Raises `InputError` if it is missing or is not MILBlob storage."""
        if not self.path.is_file():
            raise InputError(
                f"The weight file {self.path} is missing; copy or export the package again."
            )
        if self.path.stat().st_size < _HEADER_BYTES:
            raise self._damaged("has no header")
        mapped: Array = np.memmap(self.path, np.uint8, mode="r").view(np.ndarray)
        version = _HEADER.unpack_from(mapped.data)[1]
        if version != _VERSION:
            raise self._damaged(f"has storage version {version}, not {_VERSION}")
        return mapped

    def read(self, offset: int, element: ElementType, count: int) -> Array:
        """The bytes of the blob whose metadata is at `offset`, as a read-only uint8 view.

        Raises `InputError` if there is no such file, or unless it holds exactly `count` values of
        type `element`.
        """
        if offset % 8 or offset + _METADATA_BYTES > self._bytes.size:
            raise self._damaged(f"ends before the weight at byte {offset}")
        sentinel, code, size, start, _ = _METADATA.unpack_from(self._bytes.data, offset)
        if sentinel != _SENTINEL:
            raise self._damaged(f"has no weight at byte {offset}")
        if code != element.blob_code or size != -(-count * element.bits // 8):
            raise self._damaged(
                f"holds {size} bytes of type {code} at byte {offset}, "
                f"but the program expects {count} values of {element.name}"
            )
        if start + size > self._bytes.size:
            raise self._damaged(f"ends within the weight at byte {offset}")
        return self._bytes[start : start + size]

    def _damaged(self, symptom: str) -> InputError:
        return InputError(
            f"The weight file {self.path} {symptom}: it is damaged; "
            "copy or export the package again."
        )
