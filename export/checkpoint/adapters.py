"""Adapters of PEFT (LoRA and DoRA) merged into a checkpoint's tensors as they are read.

LoRA (Hu et al. 2021) adds s · B · A to a matrix W, with s = alpha / r, or alpha / √r if the adapter
says so. DoRA (Liu et al. 2024) scales each row of that sum from its norm to a learned magnitude.
Sums are rounded as PEFT's own `merge_and_unload` on a processor does: products and sums in float32,
then to the type of W, for one adapter after the other.

A folder holds adapted.json, which names the checkpoint and its adapters, and copies of the
checkpoint's small files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint.locate import small_files
from export.checkpoint.shards import Shard
from export.checkpoint.source import (
    TensorInfo,
    TensorSource,
    fresh_digest,
    some_of,
    stored_weights,
)
from mobile_runtime.errors import InputError
from mobile_runtime.files import (
    file_identity,
    read_json,
    replace_folder,
    scratch_folder,
    write_json,
)

ADAPTED = "adapted"  # the folder of such folders in a cache
RECORD = "adapted.json"
ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+?)(\.base_layer)?"
    r"\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)(\.default)?(\.weight)?"
)
_REMEDY = "merge it with PEFT (merge_and_unload), save the model, and give that folder"
# Keys of a configuration whose other values change what is to be merged.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "fan_in_fan_out": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None,),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "arrow_config": (None,),
    "megatron_config": (None,),
}
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "eva_", "lora_ga")  # as it starts to train


@dataclass(frozen=True, eq=False)
class _Change:
    """What an adapter adds to a matrix (rows, columns): `scale` · b · a, or its transpose for an
    embedding; and the magnitudes (rows,) that rows have after it, if it is DoRA. Arrays are views
    of the adapter's file, in its type."""

    scale: np.float32
    a: np.ndarray
    b: np.ndarray
    transposed: bool
    magnitude: np.ndarray | None

    def shape(self) -> tuple[int, int]:
        """That of the matrix."""
        found = (self.b.shape[0], self.a.shape[1])
        return found[::-1] if self.transposed else found

    def merged(self, values: np.ndarray, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` of a matrix, `values` before."""
        rows = slice(begin, end)
        a, b = (self.a[:, rows], self.b) if self.transposed else (self.a, self.b[rows])
        total = b.astype(np.float32) @ a.astype(np.float32)
        total *= self.scale
        if self.transposed:  # rounded twice, as PEFT does it
            total = np.ascontiguousarray(total.T).astype(values.dtype).astype(np.float32)
        total += values.astype(np.float32)
        if self.magnitude is not None:
            norms = np.sqrt(np.einsum("rc,rc->r", total, total, dtype=np.float64))
            total *= (self.magnitude[rows].reshape(-1) / norms.astype(np.float32))[:, None]
        return total.astype(values.dtype)


@dataclass(frozen=True, eq=False)
class Adapter:
    """An opened adapter: changes and replacements of tensors, by name."""

    folder: Path
    identity: tuple[int, ...]
    changes: Mapping[str, _Change]
    replaced: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class AdapterFolder:
    """The folder of an adapter, and what its change is multiplied with."""

    folder: Path
    weight: float = 1.0


def parse_adapter(given: str) -> AdapterFolder:
    """FOLDER or FOLDER=WEIGHT. Raises `InputError` if there is no such adapter."""
    found = AdapterFolder(Path(given).expanduser())
    if not found.folder.is_dir():
        folder, _, weight = given.rpartition("=")
        with suppress(ValueError):
            found = AdapterFolder(Path(folder).expanduser(), float(weight))
    if not (found.folder / ADAPTER_CONFIG).is_file():
        raise InputError(
            f"--adapter {given}: {found.folder} holds no {ADAPTER_CONFIG}; give the folder that "
            "PEFT's save_pretrained wrote, as FOLDER or FOLDER=WEIGHT."
        )
    if not math.isfinite(found.weight):
        raise InputError(f"--adapter {given}: the weight must be a finite number.")
    return found


def open_adapter(given: AdapterFolder, tensors: Mapping[str, TensorInfo]) -> Adapter:
    """Open an adapter to the model of these tensors. Raises `InputError` if it does not fit it, or
    holds what cannot be merged here."""
    folder = given.folder
    config = read_json(folder / ADAPTER_CONFIG, "save the adapter again")
    _check_config(config, folder)
    path = folder / _WEIGHTS
    if not path.is_file():
        raise InputError(
            f"{folder} holds no {_WEIGHTS}; save the adapter in safetensors format (pickled "
            "weights are not read)."
        )
    identity = file_identity(path)
    shard = Shard(path)
    parts: dict[str, dict[str, str]] = {}
    replaced: dict[str, np.ndarray] = {}
    unknown = []
    for key in shard.tensors:
        name = key.removeprefix(_PREFIX)
        match = _PART.fullmatch(name)
        if match is None and name in tensors:
            replaced[name] = shard.read(key)
        elif match is not None and f"{match['module']}.weight" in tensors:
            parts.setdefault(f"{match['module']}.weight", {})[match["part"]] = key
        else:
            unknown.append(key)
    if unknown:
        raise InputError(
            f"{path} holds what is for no tensor of this checkpoint: {some_of(unknown)}; give the "
            f"checkpoint that it was trained on, or {_REMEDY}."
        )
    changes = {name: _change(name, found, shard, given, config) for name, found in parts.items()}
    if not changes and not replaced:
        raise InputError(f"{path} is empty; save the adapter again.")
    shapes = {n: c.shape() for n, c in changes.items()} | {n: r.shape for n, r in replaced.items()}
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise InputError(
                f"{path} is for a {name} of {list(shape)}, but that of this checkpoint is "
                f"{list(tensors[name].shape)}; give the checkpoint that it was trained on."
            )
    return Adapter(folder, identity, changes, replaced)


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    for key, allowed in _PLAIN.items():
        if key in config and config[key] not in allowed:
            raise InputError(
                f"{folder / ADAPTER_CONFIG} says {key}: {json.dumps(config[key])[:60]}, which is "
                f"not merged here; {_REMEDY}."
            )
    if str(config.get("init_lora_weights", "")).startswith(_CHANGES_BASE):
        raise InputError(
            f"{folder / ADAPTER_CONFIG} says init_lora_weights: {config['init_lora_weights']}: its "
            f"training began with a changed base model; {_REMEDY}."
        )


def _change(
    name: str,
    parts: Mapping[str, str],
    shard: Shard,
    given: AdapterFolder,
    config: Mapping[str, Any],
) -> _Change:
    def read(part: str) -> np.ndarray:
        if part not in parts:
            raise InputError(
                f"{given.folder / _WEIGHTS} lacks lora_{part} of {name}; save the adapter again."
            )
        return shard.read(parts[part])

    kind = "embedding_" if any(part.startswith("embedding_") for part in parts) else ""
    a, b = read(f"{kind}A"), read(f"{kind}B")
    if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not len(a):
        raise InputError(
            f"{given.folder / _WEIGHTS}: lora_A and lora_B of {name} are {list(a.shape)} and "
            f"{list(b.shape)}, which do not multiply; save the adapter again."
        )
    magnitude = read("magnitude_vector") if config.get("use_dora") else None
    scale = np.float32(given.weight * _scale(name.removesuffix(".weight"), len(a), config, given))
    return _Change(scale, a, b, bool(kind), magnitude)


def _scale(module: str, rank: int, config: Mapping[str, Any], given: AdapterFolder) -> float:
    """alpha / r, or alpha / √r, of a module."""
    patterns = config.get("alpha_pattern") or {}
    keys = (key for key in patterns if re.match(rf"(.*\.)?({key})$", module))
    alpha = patterns[key] if (key := next(keys, None)) else config.get("lora_alpha", 8)
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InputError(f"{given.folder / ADAPTER_CONFIG}: lora_alpha {alpha!r} must be a number.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def write_adapted_folder(folder: Path, adapters: Sequence[AdapterFolder], root: Path) -> Path:
    """A folder under `root` that stands for the checkpoint in `folder` with adapters merged."""
    small = small_files(folder)
    record = {
        "origin": str(folder.resolve()),
        "adapters": [[str(one.folder.resolve()), one.weight] for one in adapters],
    }
    total = hashlib.sha256(json.dumps(record).encode())
    for path in small:
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    target = root / total.hexdigest()
    if not target.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with scratch_folder(target, str(os.getpid())) as partial:
            for path in small:
                shutil.copyfile(path, partial / path.name)
            write_json(partial / RECORD, record)
            replace_folder(partial, target)
    return target


def read_adapted_folder(folder: Path) -> tuple[Path, list[AdapterFolder]]:
    """The folders of the checkpoint and its adapters that such a folder names."""
    record = read_json(folder / RECORD, "remove the folder and export again")
    adapters = [AdapterFolder(Path(path), weight) for path, weight in record["adapters"]]
    return Path(record["origin"]), adapters


def merged_source(origin: TensorSource, adapters: Sequence[AdapterFolder]) -> TensorSource:
    """The tensors of `origin` with adapters merged, if there are any. Raises `InputError` if one
    does not fit."""
    if not adapters:
        return origin
    return AdaptedSource(origin, [open_adapter(one, origin.tensors) for one in adapters])


class AdaptedSource:
    """The tensors of `origin` with adapters merged into them, a `TensorSource`."""

    def __init__(self, origin: TensorSource, adapters: Sequence[Adapter]) -> None:
        self._origin, self._adapters = origin, adapters
        self._digests: dict[tuple[str, int, int], str] = {}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Those of the origin."""
        return self._origin.tensors

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, merged."""
        info = self.tensors[name]
        return self._merged(name, self._origin.read(name), 0, info.row_count)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor), merged."""
        end = min(end, self.tensors[name].row_count)
        return self._merged(name, self._origin.read_rows(name, begin, end), begin, end)

    def identity(self, name: str) -> tuple[int, ...]:
        """Those of the origin's tensor and of the adapters that change it."""
        own = (n for adapter in self._changing(name) for n in adapter.identity)
        return (*self._origin.identity(name), *own)

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of what `read_rows` returns."""
        if not self._changing(name) and name not in stored_weights(self._origin):
            return self._origin.digest(name, begin, end)
        key = (name, begin, end)
        if key not in self._digests:
            self._digests[key] = fresh_digest(self, name, begin, end)
        return self._digests[key]

    def _changing(self, name: str) -> list[Adapter]:
        return [a for a in self._adapters if name in a.changes or name in a.replaced]

    def _merged(self, name: str, values: np.ndarray, begin: int, end: int) -> np.ndarray:
        for adapter in self._changing(name):
            if name in adapter.replaced:
                values = adapter.replaced[name][begin:end].astype(values.dtype)
            if name in adapter.changes:
                values = adapter.changes[name].merged(values, begin, end)
        return values
