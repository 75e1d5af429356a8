"""An ONNX model under construction: nodes, initializers without values, and the final proto."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.backends.onnx.data import DataLayout, DataWriter, data_name
from export.backends.onnx.fuse import fuse
from export.quant.weights import Weight
from mobile_runtime.bundle import TensorSpec

CONTRIB = "com.microsoft"
_INLINE_BYTES = 1 << 16  # of a constant; larger ones are stored with the weights
_EXACT = 1  # accuracy level of float32 activations
_BITS = {
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
}
_TYPES = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int8": TensorProto.INT8,
}


@dataclass(frozen=True)
class InitializerPart:
    """Part of an initializer that one parameter fills: its first byte and how to make it."""

    initializer: str
    offset: int
    extract: Callable[[Weight], np.ndarray]


@dataclass(frozen=True)
class Declared:
    """An initializer whose values come later."""

    data_type: TensorProto.DataType
    shape: tuple[int, ...]
    inline: bool = False  # kept in the proto, where it can be replaced

    @property
    def nbytes(self) -> int:
        """Bytes that its values take."""
        return int(np.prod(self.shape)) * _BITS[self.data_type] // 8


@dataclass
class ModelBuilder:
    """Collects one graph; names of nodes and values come from a counter, so that equal graphs give
    equal bytes."""

    opset: int
    declared: dict[str, Declared] = field(default_factory=dict)
    pieces: dict[str, list[InitializerPart]] = field(default_factory=dict)  # by parameter
    computed: dict[str, np.ndarray] = field(default_factory=dict)  # by initializer
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    rounds: bool = False  # whether activations are rounded
    _uses_contrib: bool = False

    def node(
        self,
        operation: str,
        inputs: Sequence[str],
        *,
        outputs: int | Sequence[str] = 1,
        contrib: bool = False,
        **attributes: Any,
    ) -> list[str]:
        """Append an operation; return the names of its outputs."""
        number = len(self._nodes)
        if isinstance(outputs, int):
            outputs = [f"{operation}_{number}_{n}" for n in range(outputs)]
        node = helper.make_node(
            operation,
            list(inputs),
            list(outputs),
            name=f"{operation}_{number}",
            domain=CONTRIB if contrib else "",
            **attributes,
        )
        self._uses_contrib |= contrib
        self.rounds |= attributes.get("accuracy_level", 0) > _EXACT
        self._nodes.append(node)
        return list(outputs)

    def constant(self, values: Any, dtype: type[Any] | np.dtype[Any]) -> str:
        """Return the name of a small constant inside the proto; equal constants are one."""
        array = np.asarray(values, dtype)
        digest = "_".join(map(str, array.reshape(-1).tolist())) or "empty"
        shape = "x".join(map(str, array.shape))
        name = f"constant_{array.dtype}_{shape}_{digest}"[:200]
        if name not in self._constants:
            self._constants[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def table(self, name: str, values: np.ndarray) -> str:
        """Add a computed constant called `name`; a large one is stored with the weights."""
        if values.nbytes > _INLINE_BYTES:
            self.declare(name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)
            self.computed[name] = values
        else:
            self.inline(name, values)
        return name

    def inline(self, name: str, values: np.ndarray) -> None:
        """Set the values of an initializer that is kept in the proto."""
        self._constants[name] = onnx.numpy_helper.from_array(values, name)

    def declare(
        self,
        name: str,
        data_type: TensorProto.DataType,
        shape: tuple[int, ...],
        *,
        inline: bool = False,
    ) -> str:
        """Declare an initializer whose values come later; return its name."""
        self.declared[name] = Declared(data_type, shape, inline)
        return name

    def fill(self, parameter: str, piece: InitializerPart) -> None:
        """Let a parameter's weight fill part of an initializer."""
        self.pieces.setdefault(parameter, []).append(piece)

    def layout(self) -> DataLayout:
        """Return the places of all declared initializers."""
        layout = DataLayout()
        for name, declared in self.declared.items():
            if not declared.inline:
                layout.reserve(name, declared.nbytes)
        return layout

    def take(self, parameter: str, weight: Weight, writer: DataWriter) -> None:
        """Put a weight into all places that it fills."""
        for piece in self.pieces.pop(parameter):
            values = piece.extract(weight)
            if self.declared[piece.initializer].inline:
                self.inline(piece.initializer, values)
            else:
                writer.write(piece.initializer, piece.offset, values)

    def external(self, layout: DataLayout, file_name: str) -> list[onnx.TensorProto]:
        """The initializers whose values lie in the data files of `file_name`."""
        return [
            _external(name, declared, layout, file_name)
            for name, declared in self.declared.items()
            if not declared.inline
        ]

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        external: Sequence[onnx.TensorProto],
    ) -> onnx.ModelProto:
        """Return the finished proto."""
        initializers = [*self._constants.values(), *external]
        nodes: Sequence[onnx.NodeProto] = self._nodes
        if self._uses_contrib:
            axes = {name: c.dims[0] for name, c in self._constants.items() if len(c.dims) == 1}
            nodes = fuse(nodes, [value.name for value in outputs], axes)
        graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        if self._uses_contrib:
            opsets.append(helper.make_opsetid(CONTRIB, 1))
        version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=version, producer_name="minicpmv-mobile"
        )


def value_info(spec: TensorSpec, axes: Sequence[str | int]) -> onnx.ValueInfoProto:
    """An input or output; `axes` is its shape, with names for the axes that vary."""
    return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], list(axes))


def _external(
    name: str, declared: Declared, layout: DataLayout, file_name: str
) -> onnx.TensorProto:
    place = layout.places[name]
    tensor = TensorProto(
        name=name,
        data_type=declared.data_type,
        dims=declared.shape,
        data_location=TensorProto.EXTERNAL,
    )
    where = {
        "location": data_name(file_name, place.file),
        "offset": str(place.offset),
        "length": str(place.nbytes),
    }
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)
    return tensor
