"""`constexpr_*` operations: constants described by compressed data, turned into `Weight`s.

In: the operation's parameters (arrays, strings, constants of the weight file, other weights).
Both generations are read: iOS 16 (attributes, flat indices) and iOS 18 (blocks along every axis).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import ELEMENT_TYPES, Array
from mobile_runtime.mlprogram.program import BlobTensor

from .registry import UnsupportedOperation
from .values import (
    BlockScales,
    ExpandedWeights,
    SparseWeight,
    StoredAffine,
    StoredLut,
    StoredWeight,
    Weight,
    dense,
)

Parameters = Mapping[str, Any]


class WeightBuilder:
    """Builds weights that share one budget of expansions. `rounds`: rounds results to half."""

    def __init__(self, kept: ExpandedWeights, rounds: bool) -> None:
        self._kept = kept
        self._rounds = rounds

    def build(self, op_type: str, parameters: Parameters) -> Weight:
        """Return the constant of a `constexpr_*` operation. Raises `UnsupportedOperation` for other
        types."""
        builders: dict[str, Callable[[Parameters, Hashable], Weight]] = {
            "constexpr_lut_to_dense": self._lut,
            "constexpr_blockwise_shift_scale": self._blockwise,
            "constexpr_affine_dequantize": self._affine,
            "constexpr_cast": lambda p, _: self.stored(p["source_val"]),
            "constexpr_sparse_to_dense": self._sparse,
        }
        if op_type not in builders:
            raise UnsupportedOperation(
                f"{op_type} is not supported; compress with one of {', '.join(builders)}."
            )
        key = (op_type, *((name, _identity(parameters[name])) for name in sorted(parameters)))
        return builders[op_type](parameters, key)

    def stored(self, value: BlobTensor | Array | Weight) -> Weight:
        """A stored tensor as it is."""
        if isinstance(value, Weight):
            return value
        if isinstance(value, BlobTensor):
            element, packed = value.element, value.packed
        else:
            value = np.ascontiguousarray(value)
            element, packed = ELEMENT_TYPES[value.dtype.name], value.reshape(-1).view(np.uint8)
        return StoredWeight(packed, element, value.shape, _identity(value), self._kept)

    def array(self, value: BlobTensor | Array | Weight) -> Array:
        """The whole tensor, expanded; for scales, tables and other small operands."""
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, BlobTensor) and not value.shape:
            value = BlobTensor(value.file, value.offset, value.element, (1,))
            return np.asarray(self.stored(value).dense()[0])
        return np.asarray(dense(self.stored(value)))

    def _lut(self, p: Parameters, key: Hashable) -> Weight:
        lut = self.array(p["lut"])
        if "shape" in p:  # iOS 16: one table, indices packed into a flat uint8 array
            packed = self._packed(p["indices"], (lut.size - 1).bit_length(), p["shape"])
            table = lut.reshape((1,) * len(packed.shape) + (-1,))
            return StoredLut(packed, table, key, self._kept)
        if lut.shape[-1] != 1:
            raise UnsupportedOperation(
                f"constexpr_lut_to_dense with tables of vectors of {lut.shape[-1]} is not "
                "supported; palettize with cluster_dim=1."
            )
        indices = self.stored(p["indices"])
        if not isinstance(indices, StoredWeight):
            raise UnsupportedOperation(
                "constexpr_lut_to_dense of indices that are compressed themselves is not "
                "supported; palettize without pruning."
            )
        return StoredLut(indices, lut[..., 0], key, self._kept)

    def _blockwise(self, p: Parameters, key: Hashable) -> Weight:
        offset = self.array(p["offset"]) if "offset" in p else None
        blocks = BlockScales(self.array(p["scale"]), offset)
        return StoredAffine(self.stored(p["data"]), blocks, key, self._rounds, self._kept)

    def _affine(self, p: Parameters, key: Hashable) -> Weight:
        codes = self.stored(p["quantized_data"])
        axis, rank = int(self.array(p["axis"])), len(codes.shape)

        def spread(value: Array) -> Array:
            shape = [1] * rank
            shape[axis] = value.size
            return value.reshape(shape)

        blocks = BlockScales(spread(self.array(p["scale"])), spread(self.array(p["zero_point"])))
        return StoredAffine(codes, blocks, key, self._rounds, self._kept)

    def _sparse(self, p: Parameters, key: Hashable) -> Weight:
        # iOS 16 packs the mask's bits into a flat uint8 array
        mask = self._packed(p["mask"], 1, p["shape"]) if "shape" in p else self.stored(p["mask"])
        return SparseWeight(mask, self.stored(p["nonzero_data"]), key, self._kept)

    def _packed(self, value: BlobTensor | Array, bits: int, shape: Any) -> StoredWeight:
        packed = value.packed if isinstance(value, BlobTensor) else value
        sizes = tuple(int(size) for size in self.array(shape))
        element = ELEMENT_TYPES[f"uint{bits}"]
        return StoredWeight(packed, element, sizes, (_identity(value), bits), self._kept)


def _identity(value: Any) -> Hashable:
    """Key that is equal for equal constants of one package."""
    if isinstance(value, BlobTensor | Weight):
        return value.key
    return value if isinstance(value, str) else (value.dtype.name, value.shape, value.tobytes())
