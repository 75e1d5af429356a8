"""GPTQ (AutoGPTQ, gptqmodel) and AWQ (autoawq): integers packed into 32-bit words.

Matrices lie transposed, (in, out). GPTQ packs the inputs of `qweight` from the lowest bits on and
the outputs of `qzeros`; `g_idx` names the group of each input. AWQ packs the outputs of both, eight
to a word in the order 0 2 4 6 1 3 5 7.
"""

from __future__ import annotations

import numpy as np

from export.checkpoint.quantized.config import Quantization, gptq_format
from export.checkpoint.quantized.integers import IntegerMatrix, centred, unpacked
from export.checkpoint.quantized.parts import FLOATS, Layout, Parts

_ONES = {4: 0x11111111, 8: 0x01010101}  # one in each field of a word
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of the outputs of a word
_NOT_FITTING = "the parts do not fit each other"


def open_gptq(parts: Parts, config: Quantization) -> IntegerMatrix:
    """A matrix of GPTQ. The first format has zero points one smaller, as a sum over whole words."""
    packed, zeros = (parts.read(name, "int32") for name in ("qweight", "qzeros"))
    scales = parts.read("scales", *FLOATS)
    parts.require(packed.ndim == zeros.ndim == scales.ndim == 2 and scales.size > 0, _NOT_FITTING)
    (groups, rows), words = scales.shape, len(packed)
    columns = parts.shape("g_idx")[0] if "g_idx" in parts else words * 32 // int(config["bits"])
    bits = words * 32 // max(1, columns)  # modules may have bits of their own
    parts.require(bits in _ONES and words * 32 == columns * bits, "bits other than 4 and 8")
    width = -(-rows * bits // 32)
    parts.require(packed.shape[1] == rows and zeros.shape == (groups, width), _NOT_FITTING)
    parts.require("g_idx" in parts or columns % groups == 0, _NOT_FITTING)
    group_of = (
        parts.read("g_idx", "int32", "int64").reshape(-1)
        if "g_idx" in parts
        else np.arange(columns) // (columns // groups)
    )
    good = group_of.size == columns and group_of.min() >= 0 and group_of.max() == groups - 1
    parts.require(bool(good), "a g_idx that is not of its groups")
    added = np.uint32(_ONES[bits] if gptq_format(config) == "gptq" else 0)
    middle = np.uint32(_ONES[bits] << (bits - 1))

    def integers(begin: int, end: int) -> np.ndarray:
        return centred(unpacked(packed[:, begin:end].T, bits), bits)

    def zero(begin: int, end: int) -> np.ndarray:
        first, per_word = begin * bits // 32, 32 // bits
        found = zeros[:, first : -(-end * bits // 32)].view(np.uint32) + added
        fields = unpacked(found, bits)[:, begin - first * per_word : end - first * per_word]
        return centred(fields, bits).T

    whole = rows * bits % 32 == 0 and bool(np.all(zeros.view(np.uint32) + added == middle))
    return IntegerMatrix(
        (rows, columns),
        bits,
        scales.dtype.name,
        integers,
        lambda begin, end: scales[:, begin:end].T,
        None if whole else zero,
        group_of,
    )


def open_awq(parts: Parts, config: Quantization) -> IntegerMatrix:
    """A matrix of AWQ, in its layout GEMM."""
    packed, zeros = (parts.read(name, "int32") for name in ("qweight", "qzeros"))
    scales = parts.read("scales", *FLOATS)
    parts.require(packed.ndim == zeros.ndim == scales.ndim == 2 and scales.size > 0, _NOT_FITTING)
    (groups, rows), columns = scales.shape, len(packed)
    fits = packed.shape[1] * 8 == zeros.shape[1] * 8 == rows and len(zeros) == groups
    parts.require(fits and columns % groups == 0, _NOT_FITTING)

    def fields(words: np.ndarray, begin: int, end: int) -> np.ndarray:
        first = begin // 8
        held = np.ascontiguousarray(words[:, first : -(-end // 8)].T).view(np.uint32)
        nibbles = np.empty((len(held), 8, len(words)), np.uint8)
        for n, place in enumerate(_AWQ_PLACES):
            nibbles[:, n] = held >> np.uint32(4 * place) & np.uint32(15)
        rows = nibbles.reshape(8 * len(held), len(words))
        return centred(rows[begin - 8 * first : end - 8 * first], 4)

    whole = bool(np.all(zeros.view(np.uint32) == np.uint32(0x88888888)))
    return IntegerMatrix(
        (rows, columns),
        4,
        scales.dtype.name,
        lambda begin, end: fields(packed, begin, end),
        lambda begin, end: scales[:, begin:end].T,
        None if whole else lambda begin, end: fields(zeros, begin, end),
        np.arange(columns) // (columns // groups),
    )


GPTQ = Layout("qweight", ("qzeros", "scales"), ("g_idx",), open_gptq)
AWQ = Layout("qweight", ("qzeros", "scales"), (), open_awq)
