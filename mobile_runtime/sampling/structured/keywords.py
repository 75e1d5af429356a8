"""The keywords of JSON Schema that answers are held to, and their values, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mobile_runtime.sampling.structured.grammar import SchemaError
from mobile_runtime.sampling.structured.texts import MOST_REPEATS

# Say nothing about which values fit.
NOTES = frozenset(
    "title description default examples deprecated readOnly writeOnly discriminator $schema $id "
    "$comment $defs definitions".split()
)
OF_TYPE: Mapping[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "boolean": (),
    "null": (),
}
CHOICES = ("$ref", "enum", "const", "anyOf", "oneOf", "allOf")  # each stands alone
KEYWORDS = (
    "type",
    *dict.fromkeys(k for keywords in OF_TYPE.values() for k in keywords),
    *CHOICES,
)


def types_of(schema: Mapping[str, Any], said: Sequence[str], where: str) -> tuple[str, ...]:
    """The types that a schema names, or the one that its keywords are about."""
    if "type" in schema:
        given = schema["type"]
        kinds = [given] if isinstance(given, str) else given
        if (
            not isinstance(kinds, list)
            or not kinds
            or not all(isinstance(kind, str) and kind in OF_TYPE for kind in kinds)
        ):
            raise SchemaError(f"{where} has the type {shown(given)}; give {', '.join(OF_TYPE)}.")
        return tuple(dict.fromkeys(k for k in kinds if k != "integer" or "number" not in kinds))
    fitting = [kind for kind in OF_TYPE if said and set(said) <= set(OF_TYPE[kind])]
    if not said:
        return tuple(kind for kind in OF_TYPE if kind != "integer")
    if not fitting:
        raise SchemaError(f"{where} has no type, and keywords of several; give it a type.")
    return (fitting[0],)


def constants_of(schema: Any) -> list[Any] | None:
    """The values of a schema that names them all."""
    if not isinstance(schema, Mapping):
        return None
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def canonical(value: Any) -> str:
    """A text that equal values share; 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, dict):
        items = (f"{json.dumps(key)}:{canonical(value[key])}" for key in sorted(value))
        return f"{{{','.join(items)}}}"
    return json.dumps(value)


def is_of_type(value: Any, kind: str) -> bool:
    """Whether a value is of a type."""
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and value == int(value))
    kinds: Mapping[str, type] = {"object": dict, "array": list, "string": str, "null": type(None)}
    return kind in kinds and isinstance(value, kinds[kind])


def counts_of(
    schema: Mapping[str, Any], least: str, most: str, where: str
) -> tuple[int, int | None]:
    """Two keywords that count, by default 0 and None."""
    found: list[int | None] = [0, None]
    for n, name in enumerate((least, most)):
        if name in schema:
            value = schema[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
                raise SchemaError(f"{where}.{name} is {shown(value)}; give a whole number.")
            if not 0 <= value <= MOST_REPEATS:
                raise SchemaError(f"{where}.{name} is {value}; give 0 to {MOST_REPEATS:,}.")
            found[n] = int(value)
    low, high = found
    assert low is not None
    if high is not None and low > high:
        raise SchemaError(f"{where}.{least} is {low}, above {most}, {high}.")
    return low, high


def number_of(value: Any, where: str) -> int | float:
    """A keyword's number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SchemaError(f"{where} is {shown(value)}; give a number.")
    return value


def list_of(value: Any, where: str, empty: bool = False) -> list[Any]:
    """A keyword's list."""
    if not isinstance(value, list) or not (value or empty):
        raise SchemaError(
            f"{where} is {shown(value)}; give a list{'' if empty else ', not empty'}."
        )
    return value


def text_of(value: Any) -> bytes:
    """How an answer writes a value that is no list or object."""
    return json.dumps(value, ensure_ascii=False).encode()


def shown(value: Any) -> str:
    """A value for a sentence."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
