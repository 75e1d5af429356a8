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
    """What the source knows of the parameter's inputs."""
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
    """Store what `parameter` has loaded as `spec` says; a weight that the source has finished stays
    as it is, if the plan has taken its specification over."""
    rows = parameter.shape[0]
    if isinstance(loaded, np.ndarray):
        return quantize(Values(loaded, parameter.label, rows, threads), spec, statistics)
    if spec.method != STORED:
        return quantize(
            Values(loaded.dequantize(), parameter.label, rows, threads), spec, statistics
        )
    assert loaded.layout == spec.layout, f"{parameter.label} is {loaded.layout}, not {spec}"
    return loaded if loaded.shape[0] == rows else loaded.padded(rows)
