"""Constants of a MIL function that stand for weights without holding them.

A placeholder has the right type and shape but zero strides, so it takes no memory. Its weight id
names the stored tensor that it stands for; placeholders with one id share the tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from export.backends.coreml.names import const_name
from export.graphs.graph import Parameter
from export.quant.recipe import QuantSpec
from export.quant.weights import AffineWeight, DenseWeight, LutWeight, Weight, packed_size
from mobile_runtime.errors import InputError

_INDEX_TYPES = {
    1: types.np_uint1_dtype,
    2: types.np_uint2_dtype,
    3: types.np_uint3_dtype,
    4: types.np_uint4_dtype,
    6: types.np_uint6_dtype,
    8: np.dtype(np.uint8),
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the weight file: how to take it from a weight, and its type there."""

    weight_id: str
    extract: Callable[[Weight], np.ndarray]
    data_type: str
    padding_bits: int = 0


class Placeholders:
    """Makes the constants and records the stored tensors of each parameter."""

    def __init__(self) -> None:
        self.tensors: dict[str, dict[str, StoredTensor]] = {}

    def vector(self, parameter: Parameter) -> Any:
        """A bias or gain, float16 (n,)."""
        tensor = StoredTensor(parameter.name, _values, "float16")
        return self._const(parameter, tensor, np.dtype(np.float16), parameter.shape)

    def doubled_vector(self, parameter: Parameter, added: int = 0) -> Any:
        """A gain followed by as many zeros, float16 (2n,). For a norm over `added` channels more of
        each sign, the gain times sqrt(n / (n + added)), and zeros for these too."""
        extract = partial(_doubled, added=added)
        tensor = StoredTensor(f"{parameter.name}/doubled", extract, "float16")
        shape = (2 * (parameter.shape[0] + added),)
        return self._const(parameter, tensor, np.dtype(np.float16), shape)

    def kernel(self, parameter: Parameter, spec: QuantSpec) -> Any:
        """The (rows, columns, 1, 1) kernel of a 1×1 convolution in the form of `spec`."""
        if spec.form == "floats":
            tensor = StoredTensor(parameter.name, _values, "float16")
            shape = (*parameter.shape, 1, 1)
            return self._const(parameter, tensor, np.dtype(np.float16), shape)
        if spec.form == "lut":
            return self._lut(parameter, spec)
        return self._affine(parameter)

    def _lut(self, parameter: Parameter, spec: QuantSpec) -> Any:
        if spec.bits not in _INDEX_TYPES:
            raise InputError(
                f"Core ML has no {spec.bits}-bit lookup tables (for {parameter.name}); "
                f"use {', '.join(map(str, _INDEX_TYPES))} bits."
            )
        rows, columns = parameter.shape
        padding = 8 * packed_size(rows * columns, spec.bits) - rows * columns * spec.bits
        indices = StoredTensor(f"{parameter.name}/indices", _packed, f"uint{spec.bits}", padding)
        lut = StoredTensor(f"{parameter.name}/lut", _lut_values, "float16")
        lut_shape = (rows // spec.group_size, 1, 1, 1, 1 << spec.bits, 1)
        return mb.constexpr_lut_to_dense(
            indices=self._const(parameter, indices, _INDEX_TYPES[spec.bits], (rows, columns, 1, 1)),
            lut=self._const(parameter, lut, np.dtype(np.float16), lut_shape),
            name=const_name(parameter.name),
        )

    def _affine(self, parameter: Parameter) -> Any:
        rows, columns = parameter.shape
        data = StoredTensor(f"{parameter.name}/q", _integers, "int8")
        scale = StoredTensor(f"{parameter.name}/scale", _scales, "float16")
        return mb.constexpr_blockwise_shift_scale(
            data=self._const(parameter, data, np.dtype(np.int8), (rows, columns, 1, 1)),
            scale=self._const(parameter, scale, np.dtype(np.float16), (rows, 1, 1, 1)),
            name=const_name(parameter.name),
        )

    def _const(
        self,
        parameter: Parameter,
        tensor: StoredTensor,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
    ) -> Any:
        self.tensors.setdefault(parameter.name, {})[tensor.weight_id] = tensor
        values = np.broadcast_to(np.zeros((), dtype), shape)
        const = mb.const(val=values, name=const_name(tensor.weight_id))
        const.op.weight_id = tensor.weight_id
        return const


def _values(weight: Weight) -> np.ndarray:
    assert isinstance(weight, DenseWeight)
    return weight.values


def _doubled(weight: Weight, added: int) -> np.ndarray:
    assert isinstance(weight, DenseWeight)
    n = len(weight.values)
    gains = weight.values if not added else weight.values * np.float32((n / (n + added)) ** 0.5)
    return np.concatenate([gains, np.zeros(n + 2 * added)]).astype(weight.values.dtype)


def _packed(weight: Weight) -> np.ndarray:
    assert isinstance(weight, LutWeight)
    return weight.packed


def _lut_values(weight: Weight) -> np.ndarray:
    assert isinstance(weight, LutWeight)
    return weight.lut


def _integers(weight: Weight) -> np.ndarray:
    assert isinstance(weight, AffineWeight)
    return weight.q


def _scales(weight: Weight) -> np.ndarray:
    assert isinstance(weight, AffineWeight)
    return weight.scale
