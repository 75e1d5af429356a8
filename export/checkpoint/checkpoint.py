"""A Hugging Face checkpoint folder as lazy, named tensors.

Tensors come out as stored (bfloat16, float16 or float32 numpy arrays), one at a time, straight from
the memory-mapped shards; nothing but safetensors is ever read. Knows no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from export.checkpoint.shards import Shard, TensorInfo
from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_LISTED = 12
_BLOCK_BYTES = 1 << 26  # that are read at once where nobody needs a whole tensor


class Checkpoint:
    """The tensors of one checkpoint folder. Opening it checks every shard's header."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: dict[str, Shard] = {}
        self._digests: dict[str, str] = {}
        self._identities: dict[str, tuple[int, ...]] = {}
        self.tensors: dict[str, TensorInfo] = {}
        for shard, names in _shard_names(folder).items():
            self._open(shard, names)

    def _open(self, name: str, indexed: frozenset[str] | None) -> None:
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{self.folder} lacks the shard {name}; download it again.")
        shard = Shard(path)
        self._shards[name] = shard
        status = path.stat()
        self._identities[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
        if indexed is not None and shard.tensors.keys() != indexed:
            raise InputError(
                f"{name} does not hold the tensors that the index lists for it "
                f"({_some(shard.tensors.keys() ^ indexed)}); download it again."
            )
        self.tensors |= shard.tensors

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Compare names and shapes with `expected`; list what is missing, unexpected, misshapen."""
        problems = []
        if missing := expected.keys() - self.tensors.keys():
            problems.append(f"missing: {_some(missing)}")
        if unexpected := self.tensors.keys() - expected.keys():
            problems.append(f"unexpected: {_some(unexpected)}")
        wrong = [
            f"{name} is {list(self.tensors[name].shape)}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in self.tensors and self.tensors[name].shape != shape
        ]
        if wrong:
            problems.append(f"wrong shape: {_some(wrong)}")
        if problems:
            raise InputError(
                f"{self.folder} does not fit its config.json; {'; '.join(problems)}; "
                "give a complete MiniCPM-V 4.5 checkpoint."
            )

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, as stored."""
        return self._shards[self.tensors[name].shard].read(name)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor) of a matrix, as stored."""
        return self._shards[self.tensors[name].shard].read_rows(name, begin, end)

    def sha256(self) -> str:
        """Digest over name, type, shape and bytes of every tensor, whatever the sharding."""
        total = hashlib.sha256()
        for name, info in sorted(self.tensors.items()):
            if name not in self._digests:
                self._digests[name] = self.digest(name, 0, self.rows(name))
            entry = [name, info.dtype, list(info.shape), self._digests[name]]
            total.update(json.dumps(entry).encode())
        return total.hexdigest()

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of the bytes of rows `begin` to `end`, read block by block."""
        total = hashlib.sha256()
        info = self.tensors[name]
        if len(info.shape) < 2:
            total.update(bytes_of(self.read(name)))
            return total.hexdigest()
        row = int(np.prod(info.shape[1:])) * np.dtype(info.dtype).itemsize
        step = max(1, _BLOCK_BYTES // row)
        for first in range(begin, end, step):
            total.update(bytes_of(self.read_rows(name, first, min(first + step, end))))
        return total.hexdigest()

    def know(self, name: str, sha256: str) -> None:
        """Take the digest of a whole tensor from whoever has read it."""
        self._digests[name] = sha256

    def rows(self, name: str) -> int:
        """Length of a tensor's first axis."""
        return (*self.tensors[name].shape, 1)[0]

    def identity(self, name: str) -> tuple[int, ...]:
        """Changes whenever the tensor's shard is replaced or written to: (inode, bytes,
        modification time in ns)."""
        return self._identities[self.tensors[name].shard]


def bytes_of(values: np.ndarray) -> memoryview:
    """The bytes of an array in C order, without a copy where it is contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _shard_names(folder: Path) -> dict[str, frozenset[str] | None]:
    """Shard file -> names that the index lists for it (None without an index)."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of a checkpoint.")
    if not (folder / _INDEX).is_file():
        if (folder / _SINGLE).is_file():
            return {_SINGLE: None}
        raise InputError(
            f"{folder} holds neither {_INDEX} nor {_SINGLE}; "
            "give a checkpoint in safetensors format (pickled weights are not read)."
        )
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{folder / _INDEX} has no 'weight_map'; download it again.")
    shards: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise InputError(f"{folder / _INDEX} names the shard {shard!r} outside the folder.")
        shards.setdefault(shard, set()).add(name)
    return {shard: frozenset(names) for shard, names in sorted(shards.items())}


def _some(names: Iterable[str]) -> str:
    """The first names of a long list, with the count of the rest."""
    ordered = sorted(names)
    rest = len(ordered) - _LISTED
    return ", ".join(ordered[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
