"""Weights that a calibration has finished, over the rotated tensors of the checkpoint.

A folder holds calibration.json, which names the checkpoint and says what was done, safetensors with
indices and tables or integers and scales, and copies of the checkpoint's small files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from export.checkpoint.rotation import ResidualStream
from export.checkpoint.source import TensorInfo, TensorSource, fresh_digest
from export.quant.recipe import QuantSpec
from export.quant.weights import BlockWeight, LutWeight, Weight
from mobile_runtime.errors import InputError
from mobile_runtime.files import file_identity, read_json, written_whole

RECORD = "calibration.json"
CALIBRATED = "calibrated"  # the folder of such folders in a cache
_WEIGHTS = "*.safetensors"
_REMEDY = "remove the folder and calibrate again"


def read_record(folder: Path) -> dict[str, Any]:
    """The content of calibration.json."""
    return read_json(folder / RECORD, _REMEDY)


def stream_of(record: Mapping[str, Any]) -> ResidualStream:
    """The residual stream that a record describes."""
    return ResidualStream(**record["stream"])


def save_weights(
    weights: Mapping[str, Weight],
    specs: Mapping[str, QuantSpec],
    path: Path,
    begins: Mapping[str, tuple[str, int]] | None = None,
) -> None:
    """Write finished weights to one safetensors file. A weight in `begins` holds rows of the tensor
    named there, from that number on; any other is the tensor of its name."""
    arrays: dict[str, np.ndarray] = {}
    for name, weight in weights.items():
        if isinstance(weight, LutWeight):
            arrays |= {f"{name}:packed": weight.packed, f"{name}:lut": weight.lut}
        else:
            assert isinstance(weight, BlockWeight), f"{name} is {type(weight).__name__}"
            arrays |= {f"{name}:q": weight.q, f"{name}:scale": weight.scale}
            if weight.offset is not None:
                arrays[f"{name}:offset"] = weight.offset
    described = {}
    for name, weight in weights.items():
        tensor, begin = (begins or {}).get(name, (name, 0))
        place = {"tensor": tensor, "begin": begin}
        described[name] = {"shape": list(weight.shape), "spec": asdict(specs[name]), **place}
    with written_whole(path) as partial:
        save_file(arrays, str(partial), {"weights": json.dumps(described)})


@dataclass(frozen=True)
class _Rows:
    """Finished rows of a matrix, from `begin` to `end`: the last ones may lie past its end."""

    begin: int
    end: int
    load: Callable[[], Weight]


class CalibratedSource:
    """The tensors of `origin`, some of them in their storage form, whole or in parts of consecutive
    rows: a `WeightSource`."""

    def __init__(self, origin: TensorSource, files: list[Path] | None = None) -> None:
        self._origin = origin
        self._rows: dict[str, list[_Rows]] = {}
        self._specs: dict[str, QuantSpec] = {}
        self._identities: dict[str, tuple[int, ...]] = {}
        self._digests: dict[tuple[str, int, int], str] = {}
        for path in files or ():
            self.add(path)

    @classmethod
    def open(cls, origin: TensorSource, folder: Path) -> CalibratedSource:
        """The weights in `folder`, over `origin`."""
        return cls(origin, sorted(folder.glob(_WEIGHTS)))

    def add(self, path: Path) -> None:
        """Add the weights of one file."""
        try:
            identity = file_identity(path)
            file: Any = safe_open(path, framework="np")
            described = json.loads(file.metadata()["weights"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} holds no calibrated weights ({error}); {_REMEDY}.") from error
        for name, entry in described.items():
            spec, shape = QuantSpec(**entry["spec"]), (entry["shape"][0], entry["shape"][1])
            tensor = entry["tensor"]
            self.put(
                tensor, spec, shape[0], partial(_load, file, name, spec, shape), entry["begin"]
            )
            self._identities[tensor] = identity

    def put(
        self, name: str, spec: QuantSpec, count: int, load: Callable[[], Weight], begin: int = 0
    ) -> None:
        """Add `count` rows of a matrix, from row `begin` on, that `load` reads."""
        parts = [part for part in self._rows.get(name, []) if part.begin != begin]
        parts.append(_Rows(begin, begin + count, load))
        self._rows[name], self._specs[name] = sorted(parts, key=lambda part: part.begin), spec

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Those of the origin."""
        return self._origin.tensors

    @property
    def weights(self) -> Mapping[str, QuantSpec]:
        """Specifications of the finished matrices."""
        return self._specs

    def read(self, name: str) -> np.ndarray:
        """The whole tensor; a finished one is dequantized."""
        if name in self._specs:
            return self.read_rows(name, 0, self.tensors[name].row_count)
        return self._origin.read(name)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor); those of a finished one dequantized."""
        if name not in self._specs:
            return self._origin.read_rows(name, begin, end)
        end = min(end, self.tensors[name].row_count)
        found = [
            part.load().rows(max(begin, part.begin) - part.begin, min(end, part.end) - part.begin)
            for part in self._rows[name]
            if part.begin < end and begin < part.end
        ]
        if not found:
            return np.zeros((0, self.tensors[name].shape[1]), np.float32)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def read_weight(self, name: str, begin: int, end: int) -> Weight:
        """A finished matrix, whole, or rows that were finished together."""
        (part,) = (part for part in self._rows[name] if part.begin == begin)
        count = self.tensors[name].row_count
        assert min(end, count) == min(part.end, count), f"{name} is read as it was finished"
        return part.load()

    def identity(self, name: str) -> tuple[int, ...]:
        """That of the origin's tensor, and of the file that holds it finished."""
        return self._origin.identity(name) + self._identities.get(name, ())

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of what `read_rows` returns, or `read_weight` for a finished matrix, or of the
        digests of the rows that were finished together."""
        if name not in self._specs:
            return self._origin.digest(name, begin, end)
        key = (name, begin, end)
        if key not in self._digests:
            parts = [part for part in self._rows[name] if begin <= part.begin < end]
            if len(parts) == 1:
                self._digests[key] = fresh_digest(self, name, begin, end)
            else:
                single = (self.digest(name, part.begin, part.end) for part in parts)
                self._digests[key] = hashlib.sha256("".join(single).encode()).hexdigest()
        return self._digests[key]


def _load(file: Any, name: str, spec: QuantSpec, shape: tuple[int, int]) -> Weight:
    def array(kind: str) -> Any:
        return file.get_tensor(f"{name}:{kind}")

    if spec.form == "lut":
        return LutWeight(array("packed"), array("lut"), spec.bits, spec.group_size, shape)
    offset = None if spec.symmetric else array("offset")
    return BlockWeight(array("q"), array("scale"), offset, spec.bits)
