"""A Hugging Face checkpoint folder as lazy, named tensors.

Tensors come out as stored (bfloat16, float16 or float32 numpy arrays), one at a time, straight from
the memory-mapped shards; nothing but safetensors is read. It depends on no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from export.checkpoint.adapters import ADAPTER_CONFIG
from export.checkpoint.shards import DTYPES, Shard, is_buffer
from export.checkpoint.source import TensorInfo, bytes_of, rows_digest, some_of
from mobile_runtime.errors import InputError
from mobile_runtime.files import file_identity, read_json

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_BLOCK_BYTES = 1 << 26  # read at once for a digest


class Checkpoint:
    """The tensors of one folder, of types in `dtypes`: a `TensorSource`. Opening it checks every
    shard's header."""

    def __init__(self, folder: Path, dtypes: Mapping[str, str] = DTYPES) -> None:
        self.folder, self._dtypes = folder, dtypes
        self._shards: dict[str, Shard] = {}
        self._shard_of: dict[str, str] = {}
        self._digests: dict[tuple[str, int, int], str] = {}
        self._identities: dict[str, tuple[int, ...]] = {}
        self.tensors: dict[str, TensorInfo] = {}
        for shard, names in _shard_names(folder).items():
            self._open(shard, names)

    def _open(self, name: str, indexed: frozenset[str] | None) -> None:
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{self.folder} lacks the shard {name}; download it again.")
        shard = Shard(path, self._dtypes)
        self._shards[name] = shard
        self._identities[name] = file_identity(path)
        if indexed is not None and shard.tensors.keys() != indexed:
            raise InputError(
                f"{name} does not hold the tensors that the index lists for it "
                f"({some_of(shard.tensors.keys() ^ indexed)}); download it again."
            )
        self.tensors |= shard.tensors
        self._shard_of |= dict.fromkeys(shard.tensors, name)

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, as stored."""
        return self._shards[self._shard_of[name]].read(name)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor) of a matrix, as stored."""
        return self._shards[self._shard_of[name]].read_rows(name, begin, end)

    def identity(self, name: str) -> tuple[int, ...]:
        """Return (inode, bytes, times of modification and of change in ns) of the tensor's shard,
        which change whenever the shard is replaced or written to, even if its time is put back."""
        return self._identities[self._shard_of[name]]

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of the bytes of rows `begin` to `end`, read block by block, once."""
        key = (name, begin, end)
        if key not in self._digests:
            self._digests[key] = self._hash(name, begin, end)
        return self._digests[key]

    def _hash(self, name: str, begin: int, end: int) -> str:
        info = self.tensors[name]
        if len(info.shape) < 2:
            return hashlib.sha256(bytes_of(self.read(name))).hexdigest()
        row = int(np.prod(info.shape[1:])) * np.dtype(info.dtype).itemsize
        step = max(1, _BLOCK_BYTES // row)
        return rows_digest(self, name, range(begin, end, step))


def _shard_names(folder: Path) -> dict[str, frozenset[str] | None]:
    """Shard file -> names that the index lists for it (None without an index)."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of a checkpoint.")
    if not (folder / _INDEX).is_file():
        if (folder / _SINGLE).is_file():
            return {_SINGLE: None}
        if (folder / ADAPTER_CONFIG).is_file():
            raise InputError(
                f"{folder} holds an adapter (LoRA or its like), not a model; give its base model "
                "with --checkpoint, and this folder with --adapter."
            )
        raise InputError(
            f"{folder} holds neither {_INDEX} nor {_SINGLE}; "
            "give a checkpoint in safetensors format (pickled weights are not read)."
        )
    weight_map = read_json(folder / _INDEX, "download it again").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{folder / _INDEX} has no 'weight_map'; download it again.")
    shards: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise InputError(
                f"{folder / _INDEX} names the shard {shard!r} outside the folder; "
                "download it again."
            )
        if not is_buffer(name):
            shards.setdefault(shard, set()).add(name)
    if (folder / _SINGLE).is_file() and not any((folder / shard).is_file() for shard in shards):
        return {_SINGLE: None}  # the index is of shards that were there before
    return {shard: frozenset(names) for shard, names in sorted(shards.items())}
