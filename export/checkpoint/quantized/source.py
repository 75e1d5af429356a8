"""The tensors of a quantized checkpoint under the names and in the shapes of the published one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.quantized.codebooks import EIGHT_BITS, FOUR_BITS
from export.checkpoint.quantized.config import Quantization, read_quantization
from export.checkpoint.quantized.integers import IntegerMatrix
from export.checkpoint.quantized.parts import Layout, PackedMatrix, Parts
from export.checkpoint.quantized.scaled import INVERSELY, PACKED, SCALED
from export.checkpoint.quantized.words import AWQ, GPTQ
from export.checkpoint.shards import DTYPES, PACKED_DTYPES
from export.checkpoint.source import TensorInfo, fresh_digest, some_of
from export.quant.recipe import QuantSpec
from export.quant.weights import Weight
from mobile_runtime.errors import InputError

# Ways to store a matrix, by the method that config.json names; the first that fits is taken.
LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "gptq": (GPTQ,),
    "awq": (AWQ,),
    "compressed-tensors": (PACKED, SCALED),
    "fp8": (INVERSELY, SCALED),
    "bitsandbytes": (FOUR_BITS, EIGHT_BITS),
}
_OF_CACHE = (".k_scale", ".v_scale")  # scales of a key/value cache, which change no weight
_DEQUANTIZED = 1 << 22  # values that are dequantized together


class QuantizedSource:
    """The tensors in `folder`, some of them dequantized as they are read: a `WeightSource`.

    Blocks of four bits that onnxruntime multiplies as they are come out as stored weights, too:
    with the same integers and scales.
    """

    def __init__(self, folder: Path) -> None:
        config = read_quantization(folder)
        self._raw = Checkpoint(folder, DTYPES | PACKED_DTYPES)
        self._matrices: dict[str, PackedMatrix] = {}
        self._parts: dict[str, tuple[str, ...]] = {}
        self._digests: dict[tuple[str, int, int], str] = {}
        described = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).digest()
        self._config_identity = int.from_bytes(described[:7], "big")
        for module, layout in _modules(self._raw, LAYOUTS[config["quant_method"]]):
            self._open(module, layout, config)
        used = {name for names in self._parts.values() for name in names}
        raw = self._raw.tensors
        floats = {n: i for n, i in raw.items() if n not in used and not n.endswith(_OF_CACHE)}
        _check_floats(folder, config, floats)
        matrices = {name: matrix.info for name, matrix in self._matrices.items()}
        self.tensors: Mapping[str, TensorInfo] = floats | matrices
        self.weights: Mapping[str, QuantSpec] = {
            name: matrix.spec
            for name, matrix in self._matrices.items()
            if isinstance(matrix, IntegerMatrix) and matrix.spec is not None
        }

    def _open(self, module: str, layout: Layout, config: Quantization) -> None:
        known = (layout.key, *layout.parts, *layout.optional)
        names = {part: f"{module}.{part}" for part in known}
        names = {part: name for part, name in names.items() if name in self._raw.tensors}
        if missing := [part for part in layout.parts if part not in names]:
            raise InputError(
                f"{self._raw.folder} holds {module}.{layout.key} without {', '.join(missing)} of "
                "the same matrix; download it again."
            )
        name = f"{module}.weight"
        self._matrices[name] = layout.open(Parts(self._raw, module, names), config)
        self._parts[name] = tuple(names.values())

    def read(self, name: str) -> np.ndarray:
        """The whole tensor; a quantized matrix in the type that its tool dequantizes it to."""
        if name in self._matrices:
            return self.read_rows(name, 0, self.tensors[name].row_count)
        return self._raw.read(name)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor)."""
        matrix = self._matrices.get(name)
        if matrix is None:
            return self._raw.read_rows(name, begin, end)
        (rows, columns), dtype = matrix.info.shape, matrix.info.dtype
        begin, end = min(begin, rows), min(end, rows)
        values = np.empty((end - begin, columns), dtype)
        step = max(1, _DEQUANTIZED // columns)
        for first in range(begin, end, step):
            last = min(first + step, end)
            values[first - begin : last - begin] = matrix.block(first, last)
        return values

    def read_weight(self, name: str, begin: int, end: int) -> Weight:
        """Rows `begin` to `end` (clipped to the tensor) as blocks."""
        matrix = self._matrices[name]
        assert isinstance(matrix, IntegerMatrix), f"{name} is no matrix of blocks"
        return matrix.weight(begin, min(end, matrix.shape[0]))

    def identity(self, name: str) -> tuple[int, ...]:
        """Those of the files that hold the parts of a matrix, and of the configuration."""
        if name not in self._matrices:
            return self._raw.identity(name)
        files = sorted({self._raw.identity(part) for part in self._parts[name]})
        return (*(number for file in files for number in file), self._config_identity)

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of what `read_rows` returns, or `read_weight` for blocks."""
        if name not in self._matrices:
            return self._raw.digest(name, begin, end)
        key = (name, begin, end)
        if key not in self._digests:
            self._digests[key] = fresh_digest(self, name, begin, end)
        return self._digests[key]


def _modules(raw: Checkpoint, layouts: tuple[Layout, ...]) -> Iterator[tuple[str, Layout]]:
    """Modules with a quantized matrix, and how it is stored."""
    found = set()
    for layout in layouts:
        for name in raw.tensors:
            module = name.removesuffix(f".{layout.key}")
            if module != name and module not in found:
                found.add(module)
                yield module, layout


def _check_floats(folder: Path, config: Quantization, left: Mapping[str, TensorInfo]) -> None:
    """Raises `InputError` if tensors that belong to no quantized matrix are no floats either."""
    method = config["quant_method"]
    if others := [name for name, info in left.items() if info.dtype not in DTYPES.values()]:
        keys = " or ".join(layout.key for layout in LAYOUTS[method])
        raise InputError(
            f"{folder} says quant_method {method!r}, but it holds numbers of no matrix with "
            f"{keys}: {some_of(others)}; download it again, or quantize the model again."
        )
