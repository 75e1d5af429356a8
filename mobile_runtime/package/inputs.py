"""What a caller gives for the inputs of a function -> the arrays that its program takes.

Everything that Core ML would refuse is refused here, before anything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.description import Feature, Interface
from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.package.pictures import picture_to_array

_INT32 = np.iinfo(np.int32)
_LARGEST_DEFAULT = 1 << 28  # values; far more than a model takes, and not more than memory has


def read_inputs(interface: Interface, given: Mapping[str, Any], where: str) -> dict[str, Array]:
    """One array for each input of `interface`. Raises `InputError`, which begins with `where`, for
    inputs that are missing, unknown, or of a type or shape that Core ML does not take."""
    check_names(interface, given, where)
    return {feature.name: _read(feature, given, where) for feature in interface.inputs}


def check_names(interface: Interface, given: Mapping[str, Any], where: str) -> None:
    """Raises `InputError` for names that are no inputs."""
    names = [feature.name for feature in interface.inputs]
    if unknown := [str(name) for name in given if name not in names]:
        raise InputError(
            f"{where} has no input {', '.join(unknown)}; its inputs are "
            f"{', '.join(names) or 'none'}."
        )


def _read(feature: Feature, given: Mapping[str, Any], where: str) -> Array:
    if feature.name not in given:
        return _default(feature, where)
    value = given[feature.name]
    if feature.kind == "picture":
        return picture_to_array(feature, value, where)
    if feature.kind not in ("array", "number", "integer"):
        raise InputError(
            f"{where}: the input {feature.name} is of kind {feature.kind}, which ML Programs do "
            "not take; export the package again."
        )
    return _array(feature, value, where)


def _default(feature: Feature, where: str) -> Array:
    if not feature.optional:
        takes = f", {feature.allowed}" if feature.allowed else ""
        raise InputError(
            f"{where} needs the input {feature.name} ({feature.kind}{takes}); give it."
        )
    if feature.default is None or feature.kind != "array":
        raise InputError(
            f"{where}: the input {feature.name} is optional, but the package has no value for it; "
            "give it."
        )
    negative = min(feature.shape, default=0) < 0
    if feature.dtype == "unknown" or negative or prod(feature.shape) > _LARGEST_DEFAULT:
        raise InputError(
            f"{where}: the description of the input {feature.name} is damaged; copy or export the "
            "package again."
        )
    with np.errstate(invalid="ignore", over="ignore"):
        return np.full(feature.shape, np.float64(feature.default).astype(feature.dtype))


def _array(feature: Feature, value: Any, where: str) -> Array:
    detached = value.detach() if hasattr(value, "detach") else value  # of PyTorch
    try:
        array = np.asarray(detached)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{where} got a value for {feature.name} that is no array ({error}); give numbers."
        ) from error
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"{where} got {array.dtype} for {feature.name}; give numbers"
            + (f" of type {feature.dtype}." if feature.dtype else ".")
        )
    if not feature.allows(array.shape) and not (array.ndim == 0 and feature.allows((1,))):
        raise InputError(
            f"{where} got {_shape(array.shape)} for {feature.name}, which takes {feature.allowed}."
        )
    return _in_range(feature, array, where)


def _in_range(feature: Feature, array: Array, where: str) -> Array:
    """Whole numbers in floats are integers, too, as in Core ML. What int32, which Core ML computes
    with, does not hold would wrap around."""
    integers = feature.kind == "integer" or (feature.dtype or "").startswith("int")
    if integers and array.dtype.kind == "f":
        if not np.array_equal(array, np.rint(array)):  # NaN is no whole number either
            raise InputError(
                f"{where} got {array.dtype} with fractions for {feature.name}, which takes "
                f"{feature.dtype or 'int64'}; give whole numbers."
            )
        array = np.clip(array, -(2.0**62), 2.0**62).astype(np.int64)
    if integers and array.size and not (_INT32.min <= array.min() and array.max() <= _INT32.max):
        raise InputError(
            f"{where} got {array.min()}…{array.max()} for {feature.name}, which takes int32; give "
            f"{_INT32.min}…{_INT32.max}."
        )
    return array


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"
