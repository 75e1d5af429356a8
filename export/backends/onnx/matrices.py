"""Matrices in ONNX: how each storage form is declared, filled and multiplied with.

`MatMulNBits` takes rows of packed blocks, so that layers on one input become one matrix; the
standard operations take (columns, rows).

Offsets of blocks stay out of the packed matrix, whose zero points could only be integers:
x · (s · q + offset)ᵀ = x · (s · q)ᵀ + (sums of x by blocks) · offsetᵀ. The second product is in
float32, even if the first rounds activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from onnx import TensorProto

from export.backends.base import Specs
from export.backends.onnx import encode
from export.backends.onnx.model import InitializerPart, ModelBuilder
from export.backends.onnx.profile import Profile
from export.graphs.graph import Parameter
from export.quant.recipe import QuantSpec
from export.quant.weights import Weight

_FLOATS = {16: TensorProto.FLOAT16, 32: TensorProto.FLOAT}
_INTEGERS = {4: TensorProto.INT4, 8: TensorProto.INT8}
_SMALLEST = 1e-30  # divisor of a row of zeros


class MatrixWriter:
    """Declares each matrix once and multiplies with it."""

    def __init__(self, builder: ModelBuilder, specs: Specs, profile: Profile) -> None:
        self._builder, self._specs, self._profile = builder, specs, profile
        self._quantized: dict[str, list[str]] = {}  # activation -> result of `_rounded`
        self._sums: dict[tuple[str, int], str] = {}  # activation and block size -> sums by blocks

    def product(self, x: str, weights: Sequence[Parameter]) -> list[str]:
        """x · weightᵀ of every weight; of neighbours that are stored alike, as one product if the
        form allows it."""
        found: list[str] = []
        for spec, group in groupby(weights, self._spec):
            alike = list(group)
            if spec.form != "blocks" or not self._profile.contrib:
                found += [self._product(x, weight) for weight in alike]
                continue
            product = self._packed_blocks(x, alike, spec)
            if len(alike) == 1:
                found.append(product)
                continue
            sizes = self._builder.constant([weight.shape[0] for weight in alike], np.int64)
            found += self._builder.node("Split", [product, sizes], outputs=len(alike), axis=-1)
        return found

    def stacked(self, x: str, weights: Sequence[Parameter]) -> str:
        """x · weightᵀ of stacked weights, as one product if the form allows it."""
        spec = self._spec(weights[0])
        if spec.form == "blocks" and self._profile.contrib:
            return self._packed_blocks(x, weights, spec)
        products = [self._product(x, weight) for weight in weights]
        return products[0] if len(products) == 1 else self._node("Concat", *products, axis=-1)

    def rows(self, tables: Sequence[Parameter], ids: str) -> str:
        """Rows `ids` of stacked tables, float32."""
        spec, name = self._spec(tables[0]), tables[0].name
        if spec.form == "floats":
            values = self._stack(tables, name, _FLOATS[spec.bits], encode.values)
            return self._float32(self._node("Gather", values, ids), spec.bits)
        integers = self._stack(tables, f"{name}/q", TensorProto.INT8, encode.integers)
        scales = self._stack(tables, f"{name}/scale", TensorProto.FLOAT, encode.scales, width=1)
        values = self._cast(self._node("Gather", integers, ids))
        return self._node("Mul", values, self._node("Gather", scales, ids))

    def _stack(
        self,
        tables: Sequence[Parameter],
        name: str,
        kind: TensorProto.DataType,
        extract: Callable[[Weight], np.ndarray],
        width: int | None = None,
    ) -> str:
        """One initializer of rows that several weights fill."""
        rows = sum(table.shape[0] for table in tables)
        self._builder.declare(name, kind, (rows, width or tables[0].shape[1]))
        row_bytes, begin = self._builder.declared[name].nbytes // rows, 0
        for table in tables:
            self._builder.fill(table.name, InitializerPart(name, begin * row_bytes, extract))
            begin += table.shape[0]
        return name

    def _spec(self, weight: Parameter) -> QuantSpec:
        return self._specs[weight.name]

    def _product(self, x: str, weight: Parameter) -> str:
        spec = self._spec(weight)
        rows, columns = weight.shape
        if spec.form == "floats":
            kind, shape = _FLOATS[spec.bits], (columns, rows)
            values = self._declare(weight, "", kind, shape, encode.transposed_values)
            return self._node("MatMul", x, self._float32(values, spec.bits))
        if spec.form == "rows":
            return self._integer_product(x, weight)
        product = self._node("MatMul", x, self._dequantized(weight, spec))
        if spec.symmetric:
            return product
        shape = columns // spec.group_size, rows
        offsets = self._declare(
            weight, "/offset", TensorProto.FLOAT, shape, encode.transposed_offsets
        )
        added = self._node("MatMul", self._block_sums(x, columns, spec.group_size), offsets)
        return self._node("Add", product, added)

    def _float32(self, value: str, bits: int) -> str:
        return value if bits == 32 else self._cast(value)

    def _integer_product(self, x: str, weight: Parameter) -> str:
        """x · weightᵀ of integers with one scale per row.

        Activations are rounded to 8 bits, each row by its own range.
        """
        rows, columns = weight.shape
        integers = self._declare(
            weight, "/q", TensorProto.INT8, (columns, rows), encode.transposed_integers
        )
        scales = self._declare(weight, "/scale", TensorProto.FLOAT, (rows,), encode.scales)
        if not self._profile.rounds:
            return self._node("MatMul", x, self._node("Mul", self._cast(integers), scales))
        self._builder.rounds = True
        if x not in self._quantized:
            self._quantized[x] = self._rounded(x)
        q, scale, zero_point, largest = self._quantized[x]
        total = self._node("MatMulInteger", q, integers, zero_point)
        product = self._node("Mul", self._cast(total), self._node("Mul", scale, scales))
        return self._node("Mul", product, largest)

    def _rounded(self, x: str) -> list[str]:
        """Return integers, scale and zero point of x with each row divided by its largest
        magnitude, and these magnitudes, (batch, length, 1).

        DynamicQuantizeLinear uses one range for all rows: without the division, one patch with
        outliers, as real towers have, would leave the others a handful of the 256 levels.
        """
        last = self._builder.constant([-1], np.int64)
        largest = self._node("ReduceMax", self._node("Abs", x), last, keepdims=1)
        largest = self._node("Max", largest, self._builder.constant(_SMALLEST, np.float32))
        scaled = self._node("Div", x, largest)
        return [*self._builder.node("DynamicQuantizeLinear", [scaled], outputs=3), largest]

    def _dequantized(self, weight: Parameter, spec: QuantSpec) -> str:
        """Dequantize blocks, without offsets, to the matrix (columns, rows); a runtime may fuse
        this with the product."""
        rows, columns = weight.shape
        blocks = columns // spec.group_size
        kind, shape = _INTEGERS[spec.bits], (blocks, rows)
        integers = self._declare(weight, "/q", kind, (columns, rows), encode.transposed_blocks)
        scales = self._declare(weight, "/scale", TensorProto.FLOAT, shape, encode.transposed_scales)
        return self._node("DequantizeLinear", integers, scales, axis=0, block_size=spec.group_size)

    def _packed_blocks(self, x: str, weights: Sequence[Parameter], spec: QuantSpec) -> str:
        """x · weightᵀ of all weights as one matrix."""
        assert all(self._spec(weight) == spec for weight in weights)
        heights, columns = [weight.shape[0] for weight in weights], weights[0].shape[1]
        rows, blocks = sum(heights), columns // spec.group_size
        name = "+".join([weights[0].name, *(w.name.split(".")[-2] for w in weights[1:])])
        block_bytes = spec.group_size * spec.bits // 8
        forms = [
            ("/q", TensorProto.UINT8, (rows, blocks, block_bytes), encode.unsigned_blocks),
            ("/scale", TensorProto.FLOAT, (rows, blocks), encode.scales),
        ]
        if not spec.symmetric:
            forms.append(("/offset", TensorProto.FLOAT, (rows, blocks), encode.offsets))
        stored = []
        for suffix, kind, shape, extract in forms:
            whole = self._builder.declare(name + suffix, kind, shape)
            row_bytes, begin = self._builder.declared[whole].nbytes // rows, 0
            for weight, height in zip(weights, heights, strict=True):
                self._builder.fill(weight.name, InitializerPart(whole, begin * row_bytes, extract))
                begin += height
            stored.append(whole)
        integers, scales, *offsets = stored
        product = self._node(
            "MatMulNBits",
            x,
            integers,
            scales,
            contrib=True,
            K=columns,
            N=rows,
            bits=spec.bits,
            block_size=spec.group_size,
            accuracy_level=self._profile.accuracy_level,
        )
        if not offsets:
            return product
        sums = self._block_sums(x, columns, spec.group_size)
        added = self._node("FusedMatMul", sums, *offsets, contrib=True, transB=1)
        return self._node("Add", product, added)

    def _block_sums(self, x: str, columns: int, size: int) -> str:
        """(batch, length, columns) -> (batch, length, columns / size), once per activation."""
        if (x, size) not in self._sums:
            shape = self._builder.constant([0, 0, columns // size, size], np.int64)
            last = self._builder.constant([-1], np.int64)
            blocks = self._node("Reshape", x, shape)
            self._sums[x, size] = self._node("ReduceSum", blocks, last, keepdims=0)
        return self._sums[x, size]

    def _declare(
        self,
        parameter: Parameter,
        suffix: str,
        kind: TensorProto.DataType,
        shape: tuple[int, ...],
        extract: Callable[[Weight], np.ndarray],
    ) -> str:
        name = parameter.name + suffix
        if name not in self._builder.declared:
            self._builder.declare(name, kind, shape)
            self._builder.fill(parameter.name, InitializerPart(name, 0, extract))
        return name

    def _node(self, operation: str, *inputs: str, **attributes: Any) -> str:
        return self._builder.node(operation, inputs, **attributes)[0]

    def _cast(self, value: str) -> str:
        return self._node("Cast", value, to=TensorProto.FLOAT)
