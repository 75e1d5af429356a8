"""A parameter's values in the storage form that its specification asks for."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.checkpoint.source import TensorSource
from export.graphs.graph import Parameter
from export.quant.affine import quantize_affine
from export.quant.blocks import quantize_blocks
from export.quant.checks import check_finite
from export.quant.kmeans import palettize
from export.quant.recipe import DENSE32, QuantSpec
from export.quant.weights import DenseWeight, Weight


def quantize(parameter: Parameter, source: TensorSource, spec: QuantSpec | None) -> Weight:
    """Load `parameter` from `source` and store it as `spec` says; None is float16."""
    return quantize_values(parameter, parameter.load(source), spec)


def quantize_values(
    parameter: Parameter, values: np.ndarray, spec: QuantSpec | None, threads: int | None = None
) -> Weight:
    """Store `values`, which `parameter` has loaded, as `spec` says."""
    rows = parameter.shape[0]
    if spec is None or spec.method == "dense":
        return to_float(
            values, parameter.label, rows, np.float32 if spec == DENSE32 else np.float16
        )
    if spec.method == "affine":
        return quantize_affine(values, bits=spec.bits, name=parameter.label, rows=rows)
    if spec.method == "block":
        return quantize_blocks(
            values,
            spec=spec,
            name=parameter.label,
            rows=rows,
            threads=threads,
        )
    return palettize(
        values,
        bits=spec.bits,
        group_size=spec.group_size,
        name=parameter.label,
        rows=rows,
        threads=threads,
    )


def to_float(
    values: np.ndarray, name: str, rows: int, dtype: type[np.float16] | type[np.float32]
) -> DenseWeight:
    """Round to `dtype`, padded with zero rows; NaN, infinity and what float16 cannot hold are
    refused."""
    check_finite(values, name)
    if len(values) == rows:
        converted: Any = values.astype(dtype)
        return DenseWeight(converted)
    padded: Any = np.zeros((rows, *values.shape[1:]), dtype)
    padded[: len(values)] = values
    return DenseWeight(padded)
