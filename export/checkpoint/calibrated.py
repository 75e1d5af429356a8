"""Weights that a calibration has finished, over the rotated tensors of the checkpoint.

A folder holds calibration.json, which names the checkpoint and says what was done, safetensors with
indices and tables or integers and scales, and copies of the checkpoint's small files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
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


def save_weights(weights: Mapping[str, Weight], specs: Mapping[str, QuantSpec], path: Path) -> None:
    """Write finished weights to one safetensors file."""
    arrays: dict[str, np.ndarray] = {}
    for name, weight in weights.items():
        if isinstance(weight, LutWeight):
            arrays |= {f"{name}:packed": weight.packed, f"{name}:lut": weight.lut}
        else:
            assert isinstance(weight, BlockWeight), f"{name} is {type(weight).__name__}"
            arrays |= {f"{name}:q": weight.q, f"{name}:scale": weight.scale}
            if weight.offset is not None:
                arrays[f"{name}:offset"] = weight.offset
    described = {
        name: {"shape": list(weights[name].shape), "spec": asdict(specs[name])} for name in weights
    }
    with written_whole(path) as partial:
        save_file(arrays, str(partial), {"weights": json.dumps(described)})


class CalibratedSource:
    """The tensors of `origin`, some of them in their storage form: a `WeightSource`."""

    def __init__(self, origin: TensorSource, files: list[Path] | None = None) -> None:
        self._origin = origin
        self._loads: dict[str, Callable[[], Weight]] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
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
            self.put(name, spec, shape, partial(_load, file, name, spec, shape))
            self._identities[name] = identity

    def put(
        self, name: str, spec: QuantSpec, shape: tuple[int, int], load: Callable[[], Weight]
    ) -> None:
        """Add a matrix that `load` reads."""
        self._loads[name], self._specs[name], self._shapes[name] = load, spec, shape

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
            return self._whole(name).dequantize()
        return self._origin.read(name)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor); those of a finished one dequantized."""
        if name in self._specs:
            return self._whole(name).rows(begin, min(end, self._shapes[name][0]))
        return self._origin.read_rows(name, begin, end)

    def read_weight(self, name: str, begin: int, end: int) -> Weight:
        """The finished matrix, whole."""
        weight = self._whole(name)
        assert (begin, min(end, weight.shape[0])) == (0, weight.shape[0]), f"{name} is read whole"
        return weight

    def identity(self, name: str) -> tuple[int, ...]:
        """That of the origin's tensor, and of the file that holds it finished."""
        return self._origin.identity(name) + self._identities.get(name, ())

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of what `read_rows` returns, or `read_weight` for a finished matrix."""
        if name not in self._specs:
            return self._origin.digest(name, begin, end)
        key = (name, begin, end)
        if key not in self._digests:
            self._digests[key] = fresh_digest(self, name, begin, end)
        return self._digests[key]

    def _whole(self, name: str) -> Weight:
        return self._loads[name]()


def _load(file: Any, name: str, spec: QuantSpec, shape: tuple[int, int]) -> Weight:
    def array(kind: str) -> Any:
        return file.get_tensor(f"{name}:{kind}")

    if spec.form == "lut":
        return LutWeight(array("packed"), array("lut"), spec.bits, spec.group_size, shape)
    offset = None if spec.symmetric else array("offset")
    return BlockWeight(array("q"), array("scale"), offset, spec.bits)
