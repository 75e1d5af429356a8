"""Named arrays in one file, written whole and verified before they are used.

A safetensors file (https://github.com/huggingface/safetensors#format: length of the header, header
in JSON, arrays in C order) whose header begins with a digest of everything after it. It is written
and read array by array. It knows no sessions.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mobile_runtime.errors import InputError
from mobile_runtime.files import parse_json, written_whole
from mobile_runtime.pictures.sources import check_file, shown
from mobile_runtime.strict_json import decode

Array = np.ndarray
_DTYPES: Mapping[str, np.dtype[np.generic]] = {
    code: np.dtype(name)
    for code, name in (("F16", "<f2"), ("F32", "<f4"), ("I32", "<i4"), ("I8", "i1"), ("U8", "u1"))
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_LENGTH = 8  # bytes of the header's length
_OPENING = b'{"__metadata__":{"digest":"'
_BEGINNING = len(_OPENING) + 64  # of the header: what the digest does not cover
_MAX_HEADER = 4 << 20
_MAX_RANK = 8
_BLOCK = 1 << 22


def write_tensors(path: Path, arrays: Mapping[str, Array], facts: Mapping[str, str]) -> None:
    """Write a file, whole or not at all. float32 that loses nothing in float16 is kept as that."""
    dtypes = {name: _smallest_dtype(array) for name, array in arrays.items()}
    rest = _header(arrays, dtypes, facts)[_BEGINNING:]
    digest = hashlib.sha256(rest)
    with written_whole(path) as partial, partial.open("wb") as file:
        file.write((_BEGINNING + len(rest)).to_bytes(_LENGTH, "little"))
        file.write(_OPENING.ljust(_BEGINNING, b"0") + rest)
        for name, array in arrays.items():
            stored = np.ascontiguousarray(array, dtypes[name]).data
            file.write(stored)
            digest.update(stored)
        file.seek(_LENGTH + len(_OPENING))
        file.write(digest.hexdigest().encode())


def _smallest_dtype(array: Array) -> np.dtype[np.generic]:
    half = np.dtype("<f2")
    if array.dtype != np.float32:
        return array.dtype
    with np.errstate(over="ignore"):
        lossless = all(np.array_equal(part.astype(half), part) for part in array)
    return half if lossless else array.dtype


def _header(
    arrays: Mapping[str, Array],
    dtypes: Mapping[str, np.dtype[np.generic]],
    facts: Mapping[str, str],
) -> bytes:
    """The header in JSON with an empty digest, filled up so that the arrays are aligned."""
    header: dict[str, object] = {"__metadata__": {"digest": "0" * 64, **facts}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.size * dtypes[name].itemsize
        shape, code = list(array.shape), _CODES[dtypes[name]]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
    data = json.dumps(header, separators=(",", ":")).encode()
    return data + b" " * (-len(data) % _LENGTH)


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class _Header:
    facts: Mapping[str, str]
    entries: Mapping[str, _Entry]


@contextmanager
def open_tensors(path: Path, wanted: str) -> Iterator[TensorFile]:
    """Open a file that `write_tensors` wrote. Raises `InputError`, which ends with what is
    `wanted`, unless it is there and intact."""
    check_file(path, wanted)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read ({error.strerror}); give {wanted}.") from (
            error
        )
    with file:
        yield TensorFile(path, file, wanted)


class TensorFile:
    """An open file: facts about its arrays, and the arrays, read when they are asked for."""

    def __init__(self, path: Path, file: BinaryIO, wanted: str) -> None:
        self._path, self._file, self._wanted = path, file, wanted
        size = os.fstat(file.fileno()).st_size
        data = self._verified_header(size)
        self._start = _LENGTH + len(data)
        header = self._decode(data)
        self.facts, self._entries = header.facts, header.entries
        self._check_layout(size - self._start)

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return list(self._entries)

    def damaged(self, problem: str) -> InputError:
        """The error that says what is wrong with the file."""
        return InputError(f"{shown(self._path)} {problem}; give {self._wanted}.")

    def read(self, name: str, shape: tuple[int, ...], kind: str, most: int = 0) -> Array:
        """Return the array `name`. Raises `InputError` unless it is there and has this shape (−1:
        a size of at most `most`) and kind of numbers ("f", "i" or "u")."""
        entry = self._entries.get(name)
        if entry is None:
            raise self.damaged(f"has no array {name}")
        fits = len(entry.shape) == len(shape) and all(
            size == wanted or (wanted == -1 and size <= most)
            for wanted, size in zip(shape, entry.shape, strict=True)
        )
        dtype = _DTYPES[entry.dtype]
        if not fits or dtype.kind != kind:
            raise self.damaged(
                f"holds {name} as {entry.dtype} of {_times(entry.shape)} values, not of "
                f"{_times(shape, most)} as the bundle needs"
            )
        self._file.seek(self._start + entry.data_offsets[0])
        values = np.fromfile(self._file, dtype, math.prod(entry.shape))
        if values.size != math.prod(entry.shape):
            raise self.damaged("was cut while it was read")
        return values.reshape(entry.shape)

    def _verified_header(self, size: int) -> bytes:
        start = self._file.read(_LENGTH + _BEGINNING)
        length = int.from_bytes(start[:_LENGTH], "little")
        begins = start[_LENGTH:].startswith(_OPENING) and len(start) == _LENGTH + _BEGINNING
        if not begins or not _BEGINNING < length <= min(_MAX_HEADER, size - _LENGTH):
            raise self.damaged("is something else, or was cut")
        rest = self._file.read(length - _BEGINNING)
        digest = hashlib.sha256(rest)
        while block := self._file.read(_BLOCK):
            digest.update(block)
        if digest.hexdigest().encode() != start[_LENGTH + len(_OPENING) :]:
            raise self.damaged("does not match its digest: it was changed or cut")
        return start[_LENGTH:] + rest

    def _decode(self, data: bytes) -> _Header:
        try:
            entries = parse_json(data, self._path, "")
            value = {"facts": entries.pop("__metadata__"), "entries": entries}
            return decode(_Header, value, "header", self._path.name, "")
        except InputError as error:
            raise self.damaged("has a header that is not valid") from error

    def _check_layout(self, size: int) -> None:
        """Arrays must follow each other without a gap up to the end, as their shapes say."""
        end = 0
        for entry in self._entries.values():
            begin, end, before = *entry.data_offsets, end
            known = entry.dtype in _DTYPES and len(entry.shape) <= _MAX_RANK
            if not known or begin != before or min(entry.shape, default=0) < 0:
                raise self.damaged("has a header that is not valid")
            if end - begin != math.prod(entry.shape) * _DTYPES[entry.dtype].itemsize:
                raise self.damaged("has arrays whose shapes contradict their sizes")
        if end != size:
            raise self.damaged("has arrays that do not fill it")


def _times(shape: tuple[int, ...], most: int = 0) -> str:
    return " × ".join(f"up to {most}" if size < 0 else str(size)[:20] for size in shape)
