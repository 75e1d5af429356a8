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
from .sparse import Interleaved, Masked, Nonzero, SparseCodes
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
_ROUNDS = "rounds"  # a parameter of our own: whether results are rounded to half precision


class WeightBuilder:
    """Builds weights that share one budget of expansions. `rounds`: rounds to half what is
    declared half."""

    def __init__(self, kept: ExpandedWeights, rounds: bool) -> None:
        self._kept = kept
        self._rounds = rounds

    def build(
        self, op_type: str, parameters: Parameters, dtype: str | None = "float16"
    ) -> tuple[Weight, ...]:
        """Return the constants of a `constexpr_*` operation whose last one is declared `dtype`.
        Raises `UnsupportedOperation` for other types."""
        if op_type not in CONSTANTS:
            raise UnsupportedOperation(
                f"{op_type} is not supported; compress with one of {', '.join(CONSTANTS)}."
            )
        key = (op_type, *((name, _identity(parameters[name])) for name in sorted(parameters)))
        rounds = self._rounds and dtype == "float16"
        made = CONSTANTS[op_type](self, {**parameters, _ROUNDS: rounds}, key)
        return made if isinstance(made, tuple) else (made,)

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
        indices = self.stored(p["indices"])
        if not isinstance(indices, StoredWeight):
            raise UnsupportedOperation(
                "constexpr_lut_to_dense of indices that are compressed themselves is not "
                "supported; palettize without pruning."
            )
        return self._looked_up(indices, lut, p, key)

    def _looked_up(
        self, indices: StoredWeight, lut: Array, p: Parameters, key: Hashable
    ) -> StoredLut | Interleaved:
        """The entries of `lut`, whose last axis is a vector that runs along `vector_axis`."""
        parts = [
            StoredLut(indices, lut[..., n], (key, n), self._kept) for n in range(lut.shape[-1])
        ]
        if len(parts) == 1:
            return parts[0]
        return Interleaved(parts, int(self.array(p["vector_axis"])), key, self._kept)

    def _lut_sparse(self, p: Parameters, key: Hashable) -> tuple[Weight, Weight]:
        mask, lut = self.stored(p["indices_mask"]), self.array(p["lut"])
        nonzero = self.stored(p["indices_nonzero_data"])
        if not isinstance(nonzero, StoredWeight):
            raise UnsupportedOperation(
                "constexpr_lut_to_sparse of indices that are compressed themselves is not "
                "supported; palettize once."
            )
        codes = SparseCodes(mask, nonzero, (key, "codes"), self._kept)
        whole = self._looked_up(codes, lut, p, key)
        if isinstance(whole, Interleaved):
            axis, times = int(self.array(p["vector_axis"])), lut.shape[-1]
            mask = Interleaved([mask] * times, axis, (mask.key, axis, times), self._kept)
        return mask, self._nonzero(mask, whole, nonzero.shape[0] * lut.shape[-1], key)

    def _blockwise_sparse(self, p: Parameters, key: Hashable) -> tuple[Weight, Weight]:
        mask, nonzero = self.stored(p["data_mask"]), self.stored(p["nonzero_data"])
        codes = (
            nonzero.whole
            if isinstance(nonzero, Nonzero)
            else SparseWeight(mask, nonzero, (key, "codes"), self._kept)
        )
        whole = self._blockwise({**p, "data": codes}, key)
        return mask, self._nonzero(mask, whole, nonzero.shape[0], key)

    def _nonzero(self, mask: Weight, whole: Weight, count: int, key: Hashable) -> Nonzero:
        masked = Masked(mask, whole, (key, "masked"), self._kept)
        return Nonzero(masked, count, (key, "nonzero"), self._kept)

    def _cast(self, p: Parameters, key: Hashable) -> Weight:
        return self.stored(p["source_val"])

    def _blockwise(self, p: Parameters, key: Hashable) -> Weight:
        offset = self.array(p["offset"]) if "offset" in p else None
        blocks = BlockScales(self.array(p["scale"]), offset)
        return StoredAffine(self.stored(p["data"]), blocks, key, p[_ROUNDS], self._kept)

    def _affine(self, p: Parameters, key: Hashable) -> Weight:
        codes = self.stored(p["quantized_data"])
        axis, rank = int(self.array(p["axis"])), len(codes.shape)

        def spread(value: Array) -> Array:
            shape = [1] * rank
            shape[axis] = value.size
            return value.reshape(shape)

        blocks = BlockScales(spread(self.array(p["scale"])), spread(self.array(p["zero_point"])))
        return StoredAffine(codes, blocks, key, p[_ROUNDS], self._kept)

    def _sparse(self, p: Parameters, key: Hashable) -> Weight:
        # iOS 16 packs the mask's bits into a flat uint8 array
        mask = self._packed(p["mask"], 1, p["shape"]) if "shape" in p else self.stored(p["mask"])
        nonzero = self.stored(p["nonzero_data"])
        if isinstance(nonzero, Nonzero):
            return Masked(mask, nonzero.whole, key, self._kept)
        return SparseWeight(mask, nonzero, key, self._kept)

    def _packed(self, value: BlobTensor | Array, bits: int, shape: Any) -> StoredWeight:
        packed = value.packed if isinstance(value, BlobTensor) else value
        sizes = tuple(int(size) for size in self.array(shape))
        element = ELEMENT_TYPES[f"uint{bits}"]
        return StoredWeight(packed, element, sizes, (_identity(value), bits), self._kept)


_Builder = Callable[[WeightBuilder, Parameters, Hashable], Weight | tuple[Weight, ...]]
# Types of operations that describe constants, in both generations.
CONSTANTS: Mapping[str, _Builder] = {
    "constexpr_lut_to_dense": WeightBuilder._lut,
    "constexpr_blockwise_shift_scale": WeightBuilder._blockwise,
    "constexpr_affine_dequantize": WeightBuilder._affine,
    "constexpr_cast": WeightBuilder._cast,
    "constexpr_sparse_to_dense": WeightBuilder._sparse,
    "constexpr_lut_to_sparse": WeightBuilder._lut_sparse,
    "constexpr_sparse_blockwise_shift_scale": WeightBuilder._blockwise_sparse,
}


def _identity(value: Any) -> Hashable:
    """Key that is equal for equal constants of one package."""
    if isinstance(value, BlobTensor | Weight):
        return value.key
    return value if isinstance(value, str) else (value.dtype.name, value.shape, value.tobytes())
