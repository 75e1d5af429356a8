"""One safetensors file: its header, and its tensors as views of the mapped file.

A view takes no memory of its own, and its pages are released with it. The safetensors library
checks the file and its header; this module reads only where each tensor's bytes begin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers "bfloat16" with numpy)
import numpy as np
from safetensors import SafetensorError, safe_open

from export.checkpoint.source import TensorInfo
from mobile_runtime.errors import InputError

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
# Of the parts of quantized matrices.
PACKED_DTYPES = {
    "U8": "uint8",
    "I8": "int8",
    "I32": "int32",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
}
# Numbers of positions, and tables of sines and cosines.
_BUFFERS = (
    "*.position_ids",
    "*.rotary_emb.inv_freq",
    "resampler.pos_embed",
    "resampler.temporal_pos_embed",
)
_LENGTH_BYTES = 8  # the file begins with the header's length, little-endian


class Shard:
    """The tensors of one file, of types in `dtypes`. Opening it checks the whole header."""

    def __init__(self, path: Path, dtypes: Mapping[str, str] = DTYPES) -> None:
        try:
            with safe_open(path, framework="np") as checked:
                names = sorted(checked.keys())
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} is truncated or not a safetensors file ({error}); download it again."
            ) from error
        # Kept open: later reads are of the same file, even if another one replaces it.
        self._file = path.open("rb")
        length = int.from_bytes(self._file.read(_LENGTH_BYTES), "little")
        header = json.loads(self._file.read(length))
        self._first = _LENGTH_BYTES + length
        names = [name for name in names if not is_buffer(name)]
        self._begins: dict[str, int] = {n: header[n]["data_offsets"][0] for n in names}
        self.tensors = {name: _info(name, header[name], path.name, dtypes) for name in names}

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, as stored. Writing to the array does not reach the file."""
        return self._map(name, 0, self.tensors[name].shape)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor) of a tensor of at least one axis."""
        rows, *rest = self.tensors[name].shape
        begin, end = min(begin, rows), min(end, rows)
        return self._map(name, begin * int(np.prod(rest)), (end - begin, *rest))

    def _map(self, name: str, skipped: int, shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(self.tensors[name].dtype)
        if 0 in shape:  # an empty range cannot be mapped
            return np.empty(shape, dtype)
        offset = self._first + self._begins[name] + skipped * dtype.itemsize
        # Any: numpy has no type for the names of its modes that takes a file object.
        file: Any = self._file
        mapped = np.memmap(file, np.dtype(f"u{dtype.itemsize}"), "c", offset, shape)
        return np.asarray(mapped).view(dtype)


def is_buffer(name: str) -> bool:
    """Whether a tensor is computed from the configuration: some programs save such ones too."""
    return any(fnmatchcase(name, pattern) for pattern in _BUFFERS)


def _info(name: str, entry: dict[str, Any], shard: str, dtypes: Mapping[str, str]) -> TensorInfo:
    dtype = entry["dtype"]
    if dtype not in dtypes:
        raise InputError(
            f"tensor {name} in {shard} has type {dtype}; "
            f"supported are {', '.join(dtypes)}: convert the checkpoint first."
        )
    return TensorInfo(tuple(entry["shape"]), dtypes[dtype])
