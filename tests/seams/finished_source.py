"""A second kind of checkpoint, to see that one can be registered from outside: a folder whose
config.json names a quantization, some of whose matrices are finished weights."""

import json
import zlib

import numpy as np

from export.checkpoint import SourceKind
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.source import weight_digest
from export.quant.recipe import QuantSpec
from export.quant.statistics import Statistics
from export.quant.weights import BlockWeight, LutWeight, RowWeight, pack_indices
from mobile_runtime.files import read_json

METHOD = "handmade"
_SPECS = {
    "lut": QuantSpec("lut", 4, 4),
    "rows": QuantSpec("rows", 8),
    "blocks": QuantSpec("blocks", 4, 32),
}


def finished(form, shape, name):
    """Integers and scales that no search would choose: far from even, and the same at each call."""
    rng = np.random.default_rng(zlib.crc32(f"{form}{name}".encode()))
    rows, columns = shape
    if form == "lut":
        tables = np.sort(rng.standard_normal((rows // 4, 16)).astype(np.float16) * 0.1)
        indices = rng.integers(0, 16, shape).astype(np.uint8)
        return LutWeight(pack_indices(indices, 4), tables, 4, 4, shape)
    if form == "rows":
        scales = (0.001 * rng.random((rows, 1)) + 1e-4).astype(np.float16)
        return RowWeight(rng.integers(-90, 91, shape).astype(np.int8), scales, None, 8)
    scales = (0.01 * rng.random((rows, columns // 32)) + 1e-3).astype(np.float32)
    return BlockWeight(rng.integers(-8, 8, shape).astype(np.int8), scales, None, 4)


def cut(weight, begin, end):
    """Rows `begin` to `end` of a finished weight."""
    if isinstance(weight, LutWeight):
        group = weight.group_size
        packed = pack_indices(weight.indices()[begin:end], weight.bits)
        shape = (end - begin, weight.shape[1])
        return LutWeight(packed, weight.lut[begin // group : -(-end // group)], 4, group, shape)
    return type(weight)(weight.q[begin:end], weight.scale[begin:end], None, weight.bits)


class FinishedSource:
    """Implements `TensorSource`, `WeightSource` and `StatisticsSource`."""

    largest_moment = 512.0

    def __init__(self, folder):
        self._checkpoint = Checkpoint(folder)
        forms = json.loads((folder / "config.json").read_text())["quantization_config"]["forms"]
        self.tensors = self._checkpoint.tensors
        self._weights = {
            name: finished(form, self.tensors[name].shape, name) for name, form in forms.items()
        }
        self.weights = {name: _SPECS[form] for name, form in forms.items()}

    def read(self, name):
        if name in self._weights:
            return self._weights[name].dequantize()
        return self._checkpoint.read(name)

    def read_rows(self, name, begin, end):
        end = min(end, self.tensors[name].row_count)
        if name in self._weights:
            return self._weights[name].rows(min(begin, end), end)
        return self._checkpoint.read_rows(name, begin, end)

    def read_weight(self, name, begin, end):
        return cut(self._weights[name], begin, min(end, self.tensors[name].row_count))

    @property
    def statistics_digest(self):
        return str(self.largest_moment)

    def statistics(self, name):
        shape = self.tensors[name].shape if name in self.tensors else ()
        moments = np.linspace(1.0, self.largest_moment, shape[1]) if len(shape) == 2 else None
        return None if moments is None else Statistics((moments,))

    def identity(self, name):
        return self._checkpoint.identity(name)

    def digest(self, name, begin, end):
        if name in self._weights:
            return weight_digest(self.read_weight(name, begin, end))
        return self._checkpoint.digest(name, begin, end)


def _is_finished(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    return (config.get("quantization_config") or {}).get("quant_method") == METHOD


def _read_config(folder):
    config = read_json(folder / "config.json", "give another folder")
    del config["quantization_config"]
    return config


KIND = SourceKind(_is_finished, FinishedSource, _read_config, holds_weights=True)
