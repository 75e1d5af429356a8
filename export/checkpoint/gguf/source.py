"""The tensors of GGUF files under the names and in the shapes of the published checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint.gguf.blocks import Q4_0, signed_nibbles
from export.checkpoint.gguf.file import GgufFile, GgufTensor
from export.checkpoint.gguf.names import IGNORED, LANGUAGE, VISION, Pieces, published
from export.checkpoint.source import TensorInfo, fresh_digest, some_of
from export.quant.recipe import QuantSpec
from export.quant.weights import BlockWeight, Weight
from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json

_PATTERN = "*.gguf"
_DEQUANTIZED = 1 << 22  # values that are dequantized together
_BLOCKS = QuantSpec("blocks", 4, Q4_0.count)


def holds_gguf(folder: Path) -> bool:
    """Whether a checkpoint's folder holds GGUF and no safetensors."""
    return any(folder.glob(_PATTERN)) and not any(folder.glob("*.safetensors"))


def read_config_beside(folder: Path) -> dict[str, Any]:
    """The published config.json, which must lie beside the GGUF files, as the tokenizer's must."""
    return read_json(
        folder / "config.json",
        "put the published checkpoint's config.json, preprocessor_config.json and tokenizer files "
        "beside the GGUF files",
    )


class GgufSource:
    """The tensors of a language model and its vision file (mmproj), dequantized as they are read: a
    `WeightSource`, whose weights are the matrices of Q4_0."""

    def __init__(self, folder: Path) -> None:
        self._raw = _tensors(folder)
        self._pieces = dict(published(self._raw))
        used = {name for pieces in self._pieces.values() for name in pieces.names}
        if unknown := self._raw.keys() - used - IGNORED:
            raise InputError(
                f"{folder} holds tensors that this model has not: {some_of(unknown)}; give GGUF "
                "files of MiniCPM-V."
            )
        self.tensors: Mapping[str, TensorInfo] = {
            name: self._info(name, pieces) for name, pieces in self._pieces.items()
        }
        self.weights: Mapping[str, QuantSpec] = {
            name: _BLOCKS
            for name, pieces in self._pieces.items()
            if len(pieces.names) == 1 and not pieces.transposed
            if self._raw[pieces.names[0]].kind is Q4_0 and len(self.tensors[name].shape) == 2
        }
        self._digests: dict[tuple[str, int, int], str] = {}

    def _info(self, name: str, pieces: Pieces) -> TensorInfo:
        raw = [self._raw[piece] for piece in pieces.names]
        dtypes = {tensor.kind.dtype for tensor in raw}
        dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
        if len({tensor.shape[1:] for tensor in raw}) != 1:
            raise InputError(f"{name} has parts of several widths; download the GGUF files again.")
        shape = (sum(tensor.shape[0] for tensor in raw), *raw[0].shape[1:])
        return TensorInfo(shape[::-1] if pieces.transposed else shape, dtype)

    def read(self, name: str) -> np.ndarray:
        """The whole tensor; in float32 if it is quantized."""
        info = self.tensors[name]
        return self.read_rows(name, 0, info.row_count)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` (clipped to the tensor)."""
        info, pieces = self.tensors[name], self._pieces[name]
        begin, end = min(begin, info.row_count), min(end, info.row_count)
        raw = [self._raw[piece] for piece in pieces.names]
        if pieces.transposed:
            return np.ascontiguousarray(_rows(raw[0], 0, raw[0].shape[0]).T[begin:end])
        values = np.empty((end - begin, *info.shape[1:]), info.dtype)
        first = 0
        for tensor in raw:
            count = tensor.shape[0]
            low, high = max(begin, first), min(end, first + count)
            if low < high:
                found = _rows(tensor, low - first, high - first)
                values[low - begin : high - begin] = found.astype(info.dtype, copy=False)
            first += count
        return values

    def read_weight(self, name: str, begin: int, end: int) -> Weight:
        """Rows `begin` to `end` (clipped to the tensor) of a matrix of Q4_0 as blocks."""
        tensor = self._raw[self._pieces[name].names[0]]
        rows, columns = self.tensors[name].shape
        octets = np.ascontiguousarray(tensor.octets[begin : min(end, rows)])
        blocks = octets.reshape(len(octets), -1, Q4_0.size)
        scale = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16)[:, :, 0].astype(np.float32)
        q = signed_nibbles(blocks.reshape(-1, Q4_0.size)).reshape(len(octets), columns)
        return BlockWeight(q, scale, None, _BLOCKS.bits)

    def identity(self, name: str) -> tuple[int, ...]:
        """Those of the files that hold parts of the tensor."""
        files = sorted({self._raw[piece].identity for piece in self._pieces[name].names})
        return tuple(number for file in files for number in file)

    def digest(self, name: str, begin: int, end: int) -> str:
        """SHA-256 of what `read_rows` returns, or `read_weight` for blocks."""
        key = (name, begin, end)
        if key not in self._digests:
            self._digests[key] = fresh_digest(self, name, begin, end)
        return self._digests[key]


def _rows(tensor: GgufTensor, begin: int, end: int) -> np.ndarray:
    """Rows of the first axis, dequantized some at a time."""
    if len(tensor.shape) == 1:
        return tensor.rows(0, 1)[0, begin:end]
    inner = int(np.prod(tensor.shape[1:-1]))  # rows of blocks in a row of the first axis
    step = max(1, _DEQUANTIZED // (inner * tensor.shape[-1]))
    parts = [tensor.rows(n * inner, min(n + step, end) * inner) for n in range(begin, end, step)]
    return np.concatenate(parts).reshape(end - begin, *tensor.shape[1:])


def _tensors(folder: Path) -> dict[str, GgufTensor]:
    """The tensors of all files, which must be one language model and its vision file."""
    found: dict[str, GgufTensor] = {}
    kinds = set()
    for path in sorted(folder.glob(_PATTERN)):
        file = GgufFile(path)
        kind = str(file.metadata.get("general.architecture", LANGUAGE))  # later parts have none
        if kind not in (LANGUAGE, VISION):
            raise InputError(
                f"{path} is of architecture {kind[:40]!r}; read are {LANGUAGE!r}, the language "
                f"model, and {VISION!r}, its vision file (mmproj)."
            )
        kinds.add(kind)
        if twice := found.keys() & file.tensors.keys():
            raise InputError(
                f"{path} holds {some_of(twice)} a second time; leave one GGUF file of the language "
                "model and one of the vision part in the folder."
            )
        found |= file.tensors
    if VISION not in kinds or LANGUAGE not in kinds:
        missing = "vision file (mmproj)" if VISION not in kinds else "language model"
        raise InputError(f"{folder} holds GGUF files, but no {missing}; put it beside them.")
    return found
