"""A graph's parameter in the storage form that its specification asks for."""

from __future__ import annotations

import numpy as np

from export.checkpoint.source import StatisticsSource, TensorReader
from export.graphs.graph import Parameter
from export.quant.methods import STORED, Values, quantize
from export.quant.recipe import QuantSpec
from export.quant.statistics import Statistics
from export.quant.weights import Weight


def load_weight(parameter: Parameter, source: TensorReader, spec: QuantSpec) -> Weight:
    """Load `parameter` from `source` and store it as `spec` says."""
    return store(parameter, parameter.load(source), spec, observed(parameter, source))


def observed(parameter: Parameter, source: TensorReader) -> Statistics | None:
    """Return statistics of the parameter's inputs, if the source has any."""
    if isinstance(source, StatisticsSource):
        return source.statistics(parameter.label)
    return None


def store(
    parameter: Parameter,
    loaded: np.ndarray | Weight,
    spec: QuantSpec,
    statistics: Statistics | None = None,
    threads: int | None = None,
) -> Weight:
    """Return `loaded`, the value of `parameter`, stored as `spec` says.

    A finished weight of the source stays as it is if the plan has adopted its specification, else
    it is dequantized first. `threads` None means one per core.
    """
    rows = parameter.shape[0]
    if isinstance(loaded, np.ndarray):
        return quantize(Values(loaded, parameter.label, rows, threads), spec, statistics)
    if spec.method != STORED:
        return quantize(
            Values(loaded.dequantize(), parameter.label, rows, threads), spec, statistics
        )
    assert loaded.layout == spec.layout, f"{parameter.label} is {loaded.layout}, not {spec}"
    return loaded if loaded.shape[0] == rows else loaded.padded(rows)
