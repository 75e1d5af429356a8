"""Element types of MIL: their codes in the program and in weight files, width and numpy type.

Floats of every width are computed in float32, so `computed` of "float16" is float32; whether
results are rounded to half precision is the engine's decision, not a property of the type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class ElementType:
    """One element type. `stored` is its numpy type on disk, None if numpy has none."""

    name: str
    program_code: int  # MILSpec.DataType
    blob_code: int | None  # MILBlob's BlobDataType
    bits: int
    stored: np.dtype[Any] | None
    computed: np.dtype[Any]

    @property
    def is_signed(self) -> bool:
        """Whether a sub-byte integer is two's complement."""
        return self.name.startswith("int")


def _element(name: str, program: int, blob: int | None, bits: int, computed: str) -> ElementType:
    is_stored = bits >= 8 and name != "bfloat16"
    stored = np.dtype(name).newbyteorder("<") if is_stored else None
    return ElementType(name, program, blob, bits, stored, np.dtype(computed))


ELEMENT_TYPES = {
    element.name: element
    for element in (
        _element("bool", 1, None, 8, "bool"),
        _element("float16", 10, 1, 16, "float32"),
        _element("float32", 11, 2, 32, "float32"),
        _element("float64", 12, None, 64, "float32"),
        _element("int8", 21, 4, 8, "int8"),
        _element("int16", 22, 6, 16, "int16"),
        _element("int32", 23, 14, 32, "int32"),
        _element("int64", 24, None, 64, "int64"),
        _element("int4", 25, 8, 4, "int8"),
        _element("uint8", 31, 3, 8, "uint8"),
        _element("uint16", 32, 7, 16, "uint16"),
        _element("uint32", 33, 15, 32, "uint32"),
        _element("uint64", 34, None, 64, "uint64"),
        _element("uint4", 35, 11, 4, "uint8"),
        _element("uint2", 36, 10, 2, "uint8"),
        _element("uint1", 37, 9, 1, "uint8"),
        _element("uint6", 38, 13, 6, "uint8"),
        _element("uint3", 39, 12, 3, "uint8"),
    )
}
BY_PROGRAM_CODE = {element.program_code: element for element in ELEMENT_TYPES.values()}
STRING_CODE = 2

# Spellings of `cast`, `quantize` and others for the types above.
ALIASES = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}
