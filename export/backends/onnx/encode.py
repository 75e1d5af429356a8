"""Weights as the bytes of ONNX initializers."""

from __future__ import annotations

import numpy as np

from export.quant.weights import AffineWeight, DenseWeight, Weight, pack_indices


def values(weight: Weight) -> np.ndarray:
    """A vector or table, unchanged."""
    assert isinstance(weight, DenseWeight)
    return weight.values


def transposed_values(weight: Weight) -> np.ndarray:
    """(rows, columns) -> (columns, rows), as MatMul takes its second input."""
    assert isinstance(weight, DenseWeight)
    return weight.values.T


def transposed_integers(weight: Weight) -> np.ndarray:
    """(columns, rows) int8."""
    assert isinstance(weight, AffineWeight)
    return weight.q.T


def integers(weight: Weight) -> np.ndarray:
    """(rows, columns) int8."""
    assert isinstance(weight, AffineWeight)
    return weight.q


def scales(weight: Weight) -> np.ndarray:
    """(rows, blocks) float32."""
    assert isinstance(weight, AffineWeight)
    return weight.scale.astype(np.float32)


def transposed_scales(weight: Weight) -> np.ndarray:
    """(blocks, rows) float32."""
    return scales(weight).T


def offsets(weight: Weight) -> np.ndarray:
    """(rows, blocks) float32."""
    assert isinstance(weight, AffineWeight) and weight.offset is not None
    return weight.offset


def transposed_offsets(weight: Weight) -> np.ndarray:
    """(blocks, rows) float32."""
    return offsets(weight).T


def unsigned_blocks(weight: Weight) -> np.ndarray:
    """Integers raised by 2**(bits − 1), packed along each row: (rows, columns · bits / 8) uint8."""
    assert isinstance(weight, AffineWeight)
    raised = weight.q.view(np.uint8) + np.uint8(1 << (weight.bits - 1))
    return _packed(raised & np.uint8((1 << weight.bits) - 1), weight.bits)


def transposed_blocks(weight: Weight) -> np.ndarray:
    """Signed integers (columns, rows), packed from the lowest bits on."""
    assert isinstance(weight, AffineWeight)
    return _packed(weight.q.T, weight.bits)


def _packed(q: np.ndarray, bits: int) -> np.ndarray:
    """Pack integers from the lowest bits on: at four bits, two per byte."""
    if bits == 8:
        return np.ascontiguousarray(q).view(np.uint8)
    if bits != 4:
        return pack_indices(np.ascontiguousarray(q).view(np.uint8) & ((1 << bits) - 1), bits)
    flat = np.ascontiguousarray(q).view(np.uint8).reshape(-1)
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[0::2] & np.uint8(15)) | (flat[1::2] << np.uint8(4))
