"""Parsed JSON -> dataclasses, refusing missing, unknown and mistyped fields."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

from mobile_runtime.errors import InputError

_MAX_INT = (1 << 63) - 1  # largest integer that every reader can hold

T = TypeVar("T")


class _MismatchError(Exception):
    """A field and what is wrong with it, without the document's name."""


def decode(cls: type[T], value: Any, where: str, document: str, remedy: str) -> T:
    """Build dataclass `cls` from parsed JSON, refusing missing, unknown and mistyped fields.

    `where` names the value and `document` its file in the text of the `InputError`, which ends with
    `remedy`.
    """
    try:
        return typing.cast(T, _decode(cls, value, where))
    except _MismatchError as mismatch:
        field, problem = mismatch.args
        raise InputError(f"{field} in {document} {problem}; {remedy}.") from None


def _decode(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        kinds = [k for k in arguments if k is not type(None)]
        return None if value is None else _decode(kinds[0], value, where)
    if origin is Literal:
        _require(value in arguments, where, f"one of {', '.join(map(str, arguments))}", value)
        return value
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is not None:  # Mapping[str, V]
        _require(isinstance(value, dict), where, "an object", value)
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    good = type(value) is kind and (kind is not int or abs(value) <= _MAX_INT)
    _require(good, where, f"a value of type {kind.__name__}", value)
    return value


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    _require(isinstance(value, dict), where, "an object", value)
    hints = typing.get_type_hints(kind)
    if wrong := sorted(hints.keys() ^ value.keys()):
        raise _MismatchError(
            where,
            f"has missing or unknown fields: {', '.join(wrong)}; "
            f"it needs exactly {', '.join(hints)}",
        )
    return kind(**{key: _decode(hints[key], value[key], f"{where}.{key}") for key in hints})


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _require(isinstance(value, list), where, "a list", value)
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    _require(len(value) == len(arguments), where, f"a list of {len(arguments)}", value)
    pairs = zip(arguments, value, strict=True)
    return tuple(_decode(kind, item, f"{where}[{n}]") for n, (kind, item) in enumerate(pairs))


def _require(good: bool, where: str, wanted: str, value: Any) -> None:
    if not good:
        raise _MismatchError(where, f"must be {wanted}, not {str(value)[:80]!r}")
