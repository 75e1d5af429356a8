"""Matrices of blocks, read back from the graphs of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.quant.recipe import QuantSpec
from export.quant.weights import BlockWeight, unpack_indices

Array = np.ndarray
_PARTS = ("scale", "offset")
_PACKED = (TensorProto.INT4, TensorProto.UINT4)  # two in a byte


def read_blocks(
    graph: Path, specs: Mapping[str, QuantSpec], shapes: Mapping[str, tuple[int, int]]
) -> dict[str, Callable[[], BlockWeight]]:
    """What reads each of the matrices in `specs` that `graph` holds, by name."""
    model = onnx.load(graph, load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, Callable[[], BlockWeight]] = {}
    for stacked in (name[: -len("/q")] for name in tensors if name.endswith("/q")):
        names = [name for name in _members(stacked) if name in specs]
        stored = {
            part: _values(tensor, graph.parent)
            for part in ("q", *_PARTS)
            if names and (tensor := tensors.get(f"{stacked}/{part}")) is not None
        }
        begin = 0
        for name in names:
            rows = slice(begin, begin + shapes[name][0])
            found[name] = partial(_block_weight, stored, specs[name], shapes[name], rows)
            begin = rows.stop
    return found


def _members(stacked: str) -> list[str]:
    """The matrices that lie in one, from `a.q_proj.weight+k_proj+v_proj`."""
    first, *others = stacked.split("+")
    parent = first.rsplit(".", 2)[0]
    return [first, *(f"{parent}.{other}.weight" for other in others)]


def _block_weight(
    stored: Mapping[str, Array], spec: QuantSpec, shape: tuple[int, int], rows: slice
) -> BlockWeight:
    """Some rows of MatMulNBits' rows of unsigned blocks, or the whole of DequantizeLinear's columns
    of signed integers."""
    count, middle = shape[0] * shape[1], np.uint8(1 << (spec.bits - 1))
    if (q := stored["q"]).ndim == 3:
        raised = _unpacked(q[rows], spec.bits, count).reshape(shape)
        scale, offset = (stored[part][rows] if part in stored else None for part in _PARTS)
    else:
        raised = _unpacked(q, spec.bits, count).reshape(shape[::-1]).T ^ middle
        scale, offset = (stored[part].T if part in stored else None for part in _PARTS)
    integers = (raised.astype(np.int16) - middle).astype(np.int8)
    assert scale is not None
    return BlockWeight(
        np.ascontiguousarray(integers),
        np.ascontiguousarray(scale),
        None if offset is None else np.ascontiguousarray(offset),
        spec.bits,
    )


def _unpacked(packed: Array, bits: int, count: int) -> Array:
    return unpack_indices(np.ascontiguousarray(packed).reshape(-1).view(np.uint8), bits, count)


def _values(tensor: TensorProto, folder: Path) -> Array:
    """The values of an initializer, mapped from its file; packed ones as bytes."""
    packed = tensor.data_type in _PACKED
    dtype = np.dtype(np.uint8) if packed else helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if tensor.data_location != TensorProto.EXTERNAL:
        return np.frombuffer(tensor.raw_data, np.uint8) if packed else numpy_helper.to_array(tensor)
    said = {entry.key: entry.value for entry in tensor.external_data}
    path, size = folder / Path(said["location"]).name, int(said["length"])
    shape = (size,) if packed else tuple(tensor.dims)
    return np.memmap(path, dtype, "r", int(said.get("offset", 0)), shape)
