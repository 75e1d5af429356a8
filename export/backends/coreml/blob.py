"""Writer of Core ML's weight file (MILBlob storage, version 2), one tensor at a time.

A 64-byte header (count, version) is followed by records: a 64-byte entry that says type, size and
place of the data, then the data. Everything is aligned to 64 bytes. Offsets refer to the entry.
"""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

_ALIGNMENT = 64
_VERSION = 2
_SENTINEL = 0xDEADBEEF
# Type codes of MILBlob's BlobDataType.
DATA_TYPES = {
    "float16": 1,
    "float32": 2,
    "uint8": 3,
    "int8": 4,
    "uint1": 9,
    "uint2": 10,
    "uint4": 11,
    "uint3": 12,
    "uint6": 13,
}


class BlobWriter:
    """Appends tensors; the header is completed when the writer closes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._count = 0
        self._file.write(bytes(_ALIGNMENT))

    def append(self, data: np.ndarray, data_type: str, padding_bits: int = 0) -> int:
        """Write `data`'s bytes; return the offset by which the program refers to them.

        `padding_bits` counts the unused bits at the end of a sub-byte stream.
        """
        offset = self._file.tell()
        raw = np.ascontiguousarray(data)
        entry = struct.pack(
            "<IIQQQ",
            _SENTINEL,
            DATA_TYPES[data_type],
            raw.nbytes,
            offset + _ALIGNMENT,
            padding_bits,
        )
        self._file.write(entry.ljust(_ALIGNMENT, b"\0"))
        self._file.write(raw.view(np.uint8).data)
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        self._count += 1
        return offset

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._file.seek(0)
            self._file.write(struct.pack("<II", self._count, _VERSION))
        self._file.close()
