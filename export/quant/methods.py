"""`METHODS`, which choose the values of a stored weight, by the name that specifications use.

A method is one function `(values, spec, statistics) -> Weight` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.quant.affine import quantize_affine
from export.quant.blocks import quantize_blocks
from export.quant.checks import check_finite
from export.quant.feedback import quantize_with_feedback
from export.quant.kmeans import palettize
from export.quant.recipe import QuantSpec
from export.quant.statistics import Statistics
from export.quant.weights import FORMS, DenseWeight, Weight
from mobile_runtime.errors import InputError


@dataclass(frozen=True, eq=False)
class Values:
    """A weight as loaded, before it is stored.

    `array` is bfloat16, float16 or float32, (r, columns) or a vector. Rows of zeros are appended up
    to `padded_rows`. `name` is for errors; `threads` None means one per core.
    """

    array: NDArray[Any]
    name: str
    padded_rows: int
    threads: int | None = None


@dataclass(frozen=True)
class Method:
    """`choose` returns a weight in one of `forms`; without statistics it uses only the values."""

    forms: frozenset[str]
    choose: Callable[[Values, QuantSpec, Statistics | None], Weight]


def _kmeans(values: Values, spec: QuantSpec, statistics: Statistics | None) -> Weight:
    return palettize(
        values.array,
        bits=spec.bits,
        group_size=spec.group_size,
        name=values.name,
        padded_rows=values.padded_rows,
        threads=values.threads,
    )


def _minmax(values: Values, spec: QuantSpec, statistics: Statistics | None) -> Weight:
    return quantize_affine(
        values.array, bits=spec.bits, name=values.name, padded_rows=values.padded_rows
    )


def _least_squares(values: Values, spec: QuantSpec, statistics: Statistics | None) -> Weight:
    return quantize_blocks(
        values.array,
        spec=spec,
        name=values.name,
        padded_rows=values.padded_rows,
        threads=values.threads,
    )


def _round(values: Values, spec: QuantSpec, statistics: Statistics | None) -> Weight:
    dtype = np.float32 if spec.bits == 32 else np.float16
    return to_float(values.array, values.name, values.padded_rows, dtype)


def _error_feedback(values: Values, spec: QuantSpec, statistics: Statistics | None) -> Weight:
    if statistics is None:
        raise InputError(
            f"{values.name} is to be stored by error feedback, which needs a calibration; give "
            "--calibration, or another recipe."
        )
    weight, _ = quantize_with_feedback(
        values.array, spec, statistics, name=values.name, threads=values.threads
    )
    return weight if weight.shape[0] == values.padded_rows else weight.padded(values.padded_rows)


FEEDBACK = "error_feedback"  # the method that a calibration is for
STORED = "stored"  # the method of a weight that its source holds finished: nothing is chosen

METHODS: dict[str, Method] = {
    "kmeans": Method(frozenset({"lut"}), _kmeans),
    "minmax": Method(frozenset({"rows"}), _minmax),
    "least_squares": Method(frozenset({"blocks"}), _least_squares),
    FEEDBACK: Method(frozenset({"lut", "blocks"}), _error_feedback),
    "round": Method(frozenset({"floats"}), _round),
}


def check_method(name: str, spec: QuantSpec) -> None:
    """Raises `InputError` if the method of `spec` is unknown or does not produce its form."""
    if spec.method == STORED:
        return
    if spec.method not in METHODS:
        raise InputError(f"no method {spec.method!r} (for {name}); there are {', '.join(METHODS)}.")
    if spec.form not in METHODS[spec.method].forms:
        forms = ", ".join(sorted(METHODS[spec.method].forms))
        raise InputError(
            f"the method {spec.method} does not produce {spec.form} (for {name}), only {forms}; "
            "choose another method or form."
        )


def quantize(values: Values, spec: QuantSpec, statistics: Statistics | None = None) -> Weight:
    """Choose the stored values of one weight as `spec` says."""
    weight = METHODS[spec.method].choose(values, spec, statistics)
    assert isinstance(weight, FORMS[spec.form]), f"{spec.method} gave {type(weight).__name__}"
    return weight


def to_float(
    values: NDArray[Any], name: str, rows: int, dtype: type[np.float16] | type[np.float32]
) -> DenseWeight:
    """Round to `dtype` and append rows of zeros up to `rows`.

    Raises `InputError` for NaN, infinity and values that float16 cannot hold.
    """
    check_finite(values, name)
    if len(values) == rows:
        converted: Any = values.astype(dtype)
        return DenseWeight(converted)
    padded: Any = np.zeros((rows, *values.shape[1:]), dtype)
    padded[: len(values)] = values
    return DenseWeight(padded)
