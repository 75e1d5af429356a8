"""Random JSON Schemas of the keywords that answers are held to."""

from __future__ import annotations

from random import Random
from typing import Any

_NAMES = (
    *("name", "names", "n", "colour", "größe", "日付", 'the "best"', "back\\slash", "x y", ""),
    *("price", "items", "is_open", "note", "kind"),
)
_VALUES: tuple[Any, ...] = (
    *("red", "green", 'say "hi"', "naïve", "line\nbreak", 0, -7, 3.5, 1.0, 1e21, True, False, None),
    *([1, [2, "x"]], {"a": {"b": []}}, [], {}),
)


def random_schema(random: Random) -> dict[str, Any]:
    """A schema that some value of finite length fits."""
    schema = _any_of(random, 3)
    if random.random() < 0.2:  # a list of itself, by reference
        rest = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
        node = {
            "type": "object",
            "properties": {"value": schema, "next": rest},
            "required": random.choice([["value"], ["value", "next"]]),
        }
        return {"$defs": {"node": node}, "$ref": "#/$defs/node"}
    return schema


def _any_of(random: Random, depth: int) -> dict[str, Any]:
    kinds = [_string, _number, _whole, _choice, _constant, _plain]
    if depth:
        kinds += [_object, _object, _object, _array, _array, _either, _tagged]
    schema = random.choice(kinds)(random, depth)
    if random.random() < 0.2:
        schema |= {"description": "a note", "title": "Title", "default": None}
    return schema


def _plain(random: Random, depth: int) -> dict[str, Any]:
    kinds = ["string", "number", "integer", "boolean", "null"] + ["object", "array"] * (depth > 0)
    if random.random() < 0.1 and depth:
        return {}
    return {"type": random.choice([random.choice(kinds), random.sample(kinds, 2)])}


def _string(random: Random, depth: int) -> dict[str, Any]:
    least, most = sorted(random.choices(range(12), k=2))
    return {"type": "string"} | _some(random, {"minLength": least, "maxLength": most})


def _whole(random: Random, depth: int) -> dict[str, Any]:
    low, high = sorted(random.choices((-1000, -105, -10, -1, 0, 1, 9, 10, 99, 100, 12345), k=2))
    return {"type": "integer"} | _some(random, {"minimum": low, "maximum": high})


def _number(random: Random, depth: int) -> dict[str, Any]:
    low, high = sorted(random.sample((-1000, -2.5, -0.001, 0, 0.5, 1, 3.25, 100, 1e6), 2))
    bounds = {"minimum": low, "exclusiveMaximum": high}
    if random.random() < 0.5:
        bounds = {"exclusiveMinimum": low, "maximum": high}
    return {"type": "number"} | _some(random, bounds)


def _choice(random: Random, depth: int) -> dict[str, Any]:
    return {"enum": random.sample(_VALUES, random.randint(1, 5))}


def _constant(random: Random, depth: int) -> dict[str, Any]:
    return {"const": random.choice(_VALUES)}


def _array(random: Random, depth: int) -> dict[str, Any]:
    first = [_any_of(random, depth - 1) for _ in range(random.randint(1, 3))]
    least, most = sorted(random.choices(range(5), k=2))
    rest: Any = random.choice([False, _any_of(random, depth - 1)])
    if rest is False:
        return {"type": "array", "prefixItems": first, "items": False}
    schema = {"type": "array"} | _some(random, {"minItems": least, "maxItems": most})
    return schema | _some(random, {"prefixItems": first}) | {"items": rest}


def _object(random: Random, depth: int) -> dict[str, Any]:
    names = random.sample(_NAMES, random.randint(0, 5))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _any_of(random, depth - 1) for name in names},
        "required": [name for name in names if random.random() < 0.6],
    }
    others = random.choice([None, False, True, "schema"])
    if others is not None:
        other = _any_of(random, depth - 1) if others == "schema" else others
        schema["additionalProperties"] = other
    return schema


def _either(random: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_any_of(random, depth - 1) for _ in range(random.randint(1, 3))]}


def _tagged(random: Random, depth: int) -> dict[str, Any]:
    branches = []
    for name in ("circle", "square"):
        properties = {"shape": {"const": name}, "size": _any_of(random, depth - 1)}
        branches.append({"type": "object", "properties": properties, "required": ["shape"]})
    return {"oneOf": branches}


def _some(random: Random, keywords: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if random.random() < 0.6}
