"""A parameter's values in the storage form that its specification asks for."""

from __future__ import annotations

import numpy as np

from export.checkpoint import TensorSource
from export.graphs.graph import Parameter
from export.quant.affine import quantize_affine
from export.quant.checks import check_finite
from export.quant.kmeans import palettize
from export.quant.recipe import QuantSpec
from export.weights import DenseWeight, Weight


def quantize(parameter: Parameter, source: TensorSource, spec: QuantSpec | None) -> Weight:
    """Load `parameter` from `source` and store it as `spec` says; None is float16."""
    return quantize_values(parameter, parameter.load(source), spec)


def quantize_values(
    parameter: Parameter, values: np.ndarray, spec: QuantSpec | None, threads: int | None = None
) -> Weight:
    """Store `values`, which `parameter` has loaded, as `spec` says."""
    rows = parameter.shape[0]
    if spec is None:
        return to_float16(values, parameter.label, rows)
    if spec.method == "affine":
        return quantize_affine(values, bits=spec.bits, name=parameter.label, rows=rows)
    return palettize(
        values,
        bits=spec.bits,
        group_size=spec.group_size,
        name=parameter.label,
        rows=rows,
        threads=threads,
    )


def to_float16(values: np.ndarray, name: str, rows: int) -> DenseWeight:
    """Round to float16, padded with zero rows; NaN, infinity and overflow are refused."""
    check_finite(values, name)
    if len(values) == rows:
        return DenseWeight(values.astype(np.float16))
    padded = np.zeros((rows, *values.shape[1:]), np.float16)
    padded[: len(values)] = values
    return DenseWeight(padded)
