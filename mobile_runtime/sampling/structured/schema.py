"""A JSON Schema as a grammar of the answers that fit it.

Every text of the grammar is valid; not every valid value has a text. Properties come in the order
of the schema, then others if `additionalProperties` asks for them; a comma and a colon may have one
space after them, and there is no other whitespace. A schema without `type` that describes values of
one type stands for these. What cannot be held to is refused, by name: no keyword is passed over.

Keywords are those of draft 2020-12 (json-schema.org), and `definitions` of earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from mobile_runtime.sampling.structured.grammar import Grammar, Rule, SchemaError
from mobile_runtime.sampling.structured.keywords import (
    CHOICES,
    KEYWORDS,
    NOTES,
    OF_TYPE,
    canonical,
    constants_of,
    counts_of,
    is_of_type,
    list_of,
    number_of,
    shown,
    text_of,
    types_of,
)
from mobile_runtime.sampling.structured.texts import Bound, Texts, any_number, bounded_number

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_MOST_NESTED = 100  # schemas inside one another

Schema = Any  # an object or a truth value


def compile_schema(schema: Schema) -> tuple[Grammar, Rule]:
    """The grammar and its first rule. Raises `SchemaError` for what is no schema or cannot be held
    to."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()
        schema = json.loads(text)  # each part exists once
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError(f"the schema is no JSON ({error}); give a JSON Schema.") from error
    if _nesting(schema) > _MOST_NESTED:
        raise SchemaError(f"the schema is nested deeper than {_MOST_NESTED}; use $ref.")
    compiler = _Compiler(schema)
    rule = compiler.rule(schema, "schema")
    compiler.build()
    return compiler.grammar, rule


class _Compiler:
    """Rules are made when they are first asked for, and filled one after another."""

    def __init__(self, root: Schema) -> None:
        self.grammar, self._root = Grammar(), root
        self._texts = Texts(self.grammar)
        self._rules: dict[int | str, Rule] = {}  # by the schema's identity
        self._waiting: list[tuple[Rule, Schema, str]] = []

    def rule(self, schema: Schema, where: str) -> Rule:
        """The rule of a schema."""
        if schema is True or schema == {}:
            return self._any()
        if not isinstance(schema, Mapping):
            raise SchemaError(f"{where} is {shown(schema)}; give an object.")
        if id(schema) not in self._rules:
            self._rules[id(schema)] = self.grammar.rule()
            self._waiting.append((self._rules[id(schema)], schema, where))
        return self._rules[id(schema)]

    def build(self) -> None:
        """Fill the rules."""
        while self._waiting:
            self._fill(*self._waiting.pop())

    def _fill(self, rule: Rule, schema: Mapping[str, Any], where: str) -> None:
        for keyword in schema:
            if keyword not in KEYWORDS and keyword not in NOTES:
                raise SchemaError(
                    f"{where} has {keyword[:40]!r}, which answers cannot be held to; leave it out "
                    f"and check the answer for it. Known are {', '.join(KEYWORDS)}."
                )
        said = [keyword for keyword in schema if keyword not in NOTES]
        if choices := [keyword for keyword in said if keyword in CHOICES]:
            chosen, *others = [*choices, *(k for k in said if k not in choices)]
            if others and not (others == ["type"] and chosen in ("enum", "const")):
                raise SchemaError(
                    f"{where} has {others[0]!r} beside {chosen!r}, which answers cannot be held to "
                    "together; write one schema that says both."
                )
            self._fill_choice(rule, schema, chosen, where)
            return
        for kind in types_of(schema, said, where):
            self._fill_type(rule, schema, kind, where)

    def _fill_choice(self, rule: Rule, schema: Mapping[str, Any], chosen: str, where: str) -> None:
        value, where = schema[chosen], f"{where}.{chosen}"
        if chosen == "$ref":
            self._call(rule, self._resolved(value, where), where)
        elif chosen in ("enum", "const"):
            values = list_of(value, where) if chosen == "enum" else [value]
            kinds = types_of(schema, ["type"], where) if "type" in schema else tuple(OF_TYPE)
            fitting = [v for v in values if any(is_of_type(v, kind) for kind in kinds)]
            if not fitting:
                raise SchemaError(f"{where} has no value of the type {shown(schema['type'])}.")
            for one in fitting:
                self._constant(rule.start, rule.end, one)
        else:
            branches = list_of(value, where)
            if chosen == "allOf" and len(branches) > 1:
                raise SchemaError(
                    f"{where} has {len(branches)} schemas, which answers cannot be held to "
                    "together; write one that says all."
                )
            if chosen == "oneOf":
                self._require_disjoint(branches, where)
            for n, branch in enumerate(branches):
                self._call(rule, branch, f"{where}[{n}]")

    def _call(self, rule: Rule, schema: Schema, where: str) -> None:
        self.grammar.call(rule.start, rule.end, self.rule(schema, where))

    def _resolved(self, reference: Any, where: str) -> Schema:
        """What a pointer (RFC 6901) into the schema itself points at."""
        at = self._root
        good = isinstance(reference, str) and (reference == "#" or reference.startswith("#/"))
        for part in unquote(reference).split("/")[1:] if good else ():
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(at, Mapping) and name in at:
                at = at[name]
            elif isinstance(at, Sequence) and name.isdecimal() and int(name) < len(at):
                at = at[int(name)]
            else:
                good = False
                break
        if not good:
            raise SchemaError(
                f"{where} is {shown(reference)}; give a part of this schema, such as #/$defs/name."
            )
        return at

    def _require_disjoint(self, branches: Sequence[Schema], where: str) -> None:
        """`oneOf` is `anyOf` where no value fits two schemas: they differ in type, or in the
        constant of a property that all require."""
        marks = [self._marks(branch, where) for branch in branches]
        for name in sorted(set.intersection(*(set(mark) for mark in marks))):
            values = [value for mark in marks for value in mark[name]]
            if len(values) == len(set(values)):
                return
        raise SchemaError(
            f"{where} has schemas that one value may fit together; give anyOf, or each another "
            "type or a required property with another const."
        )

    def _marks(self, branch: Schema, where: str) -> dict[str, set[str]]:
        """What tells values of a schema from others: their types by the name "type", all values by
        "const", and those of a required property by its name after a point."""
        for _ in range(_MOST_NESTED):
            if not (isinstance(branch, Mapping) and "$ref" in branch):
                break
            branch = self._resolved(branch["$ref"], where)
        if not isinstance(branch, Mapping):
            return {}
        constants = constants_of(branch)
        if constants is not None:
            kinds = [kind for kind in OF_TYPE if any(is_of_type(v, kind) for v in constants)]
            return {"type": _as_numbers(kinds), "const": set(map(canonical, constants))}
        said = [keyword for keyword in branch if keyword not in NOTES]
        if "type" not in branch or any(keyword in CHOICES for keyword in said):
            return {}
        marks = {"type": _as_numbers(types_of(branch, said, where))}
        properties = branch.get("properties")
        if branch["type"] == "object" and isinstance(properties, Mapping):
            for name in list_of(branch.get("required", []), f"{where}.required", empty=True):
                if isinstance(name, str) and name in properties:
                    values = constants_of(properties[name])
                    if values is not None:
                        marks[f".{name}"] = set(map(canonical, values))
        return marks

    def _fill_type(self, rule: Rule, schema: Mapping[str, Any], kind: str, where: str) -> None:
        fill: Mapping[str, Callable[[int, int, Mapping[str, Any], str], None]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "number": self._decimal,
            "integer": self._integer,
            "boolean": self._boolean,
            "null": self._null,
        }
        fill[kind](rule.start, rule.end, schema, where)

    def _null(self, a: int, b: int, schema: Mapping[str, Any], where: str) -> None:
        self.grammar.literal(a, b, b"null")

    def _boolean(self, a: int, b: int, schema: Mapping[str, Any], where: str) -> None:
        for text in (b"true", b"false"):
            self.grammar.literal(a, b, text)

    def _integer(self, a: int, b: int, schema: Mapping[str, Any], where: str) -> None:
        self._decimal(a, b, schema, where, whole=True)

    def _string(self, a: int, b: int, schema: Mapping[str, Any], where: str) -> None:
        least, most = counts_of(schema, "minLength", "maxLength", where)
        self._texts.string(a, b, least, most)

    def _decimal(
        self, a: int, b: int, schema: Mapping[str, Any], where: str, whole: bool = False
    ) -> None:
        bounds = {
            name: Bound(
                number_of(schema[name], f"{where}.{name}"), "exclusive" in name, f"{where}.{name}"
            )
            for name in OF_TYPE["number"]
            if name in schema
        }
        if not bounds:
            any_number(self.grammar, a, b, whole)
            return
        lows = [bounds[name] for name in ("minimum", "exclusiveMinimum") if name in bounds]
        highs = [bounds[name] for name in ("maximum", "exclusiveMaximum") if name in bounds]
        if not bounded_number(self.grammar, a, b, lows, highs, whole):
            raise SchemaError(f"{where} has bounds between which there is no number.")

    def _separator(self, a: int, b: int, sign: int) -> None:
        """A comma or a colon, and a space or none."""
        after = self.grammar.state()
        self.grammar.byte(a, after, sign)
        self.grammar.optional(after, b, b" ")

    def _array(self, a: int, b: int, schema: Mapping[str, Any], where: str) -> None:
        grammar = self.grammar
        least, most = counts_of(schema, "minItems", "maxItems", where)
        first = (
            list_of(schema["prefixItems"], f"{where}.prefixItems")
            if "prefixItems" in schema
            else []
        )
        rest = schema.get("items", True)
        if rest is False:
            most = len(first) if most is None else min(most, len(first))
        if most is not None and least > most:
            raise SchemaError(f"{where} wants {least} items of at most {most}.")
        state = grammar.state()
        grammar.byte(a, state, ord("["))
        counted = max(least, len(first)) if most is None else most
        for n in range(counted):
            name = f"prefixItems[{n}]" if n < len(first) else "items"
            item = self.rule(first[n] if n < len(first) else rest, f"{where}.{name}")
            state = self._item(state, b, n, least, item)
        if most is None:
            item, last = self.rule(rest, f"{where}.items"), state
            state = self._item(last, b, counted, least, item)
            again = grammar.state()
            self._separator(state, again, ord(","))
            grammar.call(again, state, item)
        grammar.byte(state, b, ord("]"))

    def _item(self, state: int, b: int, n: int, least: int, item: Rule) -> int:
        """Item number n follows, or the array ends; returns the state after the item."""
        grammar = self.grammar
        if n >= least:
            grammar.byte(state, b, ord("]"))
        before, after = grammar.state(), grammar.state()
        if n:
            self._separator(state, before, ord(","))
        else:
            grammar.skip(state, before)
        grammar.call(before, after, item)
        return after

    def _object(self, a: int, b: int, schema: Mapping[str, Any], where: str) -> None:
        grammar = self.grammar
        properties = schema.get("properties", {})
        if not isinstance(properties, Mapping):
            raise SchemaError(f"{where}.properties is {shown(properties)}; give an object.")
        required = list_of(schema.get("required", []), f"{where}.required", empty=True)
        other = schema.get("additionalProperties", None if "properties" in schema else True)
        values = {name: (value, f"{where}.properties.{name}") for name, value in properties.items()}
        for name in required:
            if name not in values:
                value = schema.get("additionalProperties", True)
                if value is False or not isinstance(name, str):
                    raise SchemaError(f"{where} requires {shown(name)}, which may not be there.")
                values[name] = value, f"{where}.additionalProperties"
        # Nothing was written yet, or something.
        fresh, later = grammar.state(), grammar.state()
        grammar.byte(a, fresh, ord("{"))
        for name, (value, place) in values.items():
            if value is False and name not in required:
                continue
            key, colon, before = (grammar.state() for _ in range(3))
            fresh_after, later_after = grammar.state(), grammar.state()
            grammar.skip(fresh, key)
            self._separator(later, key, ord(","))
            grammar.literal(key, colon, text_of(name))
            self._separator(colon, before, ord(":"))
            grammar.call(before, later_after, self.rule(value, place))
            if name not in required:
                grammar.skip(fresh, fresh_after)
                grammar.skip(later, later_after)
            fresh, later = fresh_after, later_after
        for state in (fresh, later):
            grammar.byte(state, b, ord("}"))
        if other is not None and other is not False:
            key, colon, before = (grammar.state() for _ in range(3))
            grammar.skip(fresh, key)
            self._separator(later, key, ord(","))
            self._texts.other_key(key, colon, values)
            self._separator(colon, before, ord(":"))
            grammar.call(before, later, self.rule(other, f"{where}.additionalProperties"))

    def _any(self) -> Rule:
        """Any value."""
        if "any" not in self._rules:
            rule = self._rules["any"] = self.grammar.rule()
            for kind in OF_TYPE:
                if kind != "integer":
                    self._fill_type(rule, {}, kind, "")
        return self._rules["any"]

    def _constant(self, a: int, b: int, value: Any) -> None:
        """One value leads from a to b."""
        grammar = self.grammar
        if not isinstance(value, dict | list):
            grammar.literal(a, b, text_of(value))
            return
        opening, closing = b"{}" if isinstance(value, dict) else b"[]"
        items = list(value.items()) if isinstance(value, dict) else [(None, v) for v in value]
        state = grammar.state()
        grammar.byte(a, state, opening)
        for n, (name, item) in enumerate(items):
            if n:
                state, before = grammar.state(), state
                self._separator(before, state, ord(","))
            if name is not None:
                colon, before = grammar.state(), state
                grammar.literal(before, colon, text_of(name))
                state = grammar.state()
                self._separator(colon, state, ord(":"))
            after = grammar.state()
            self._constant(state, after, item)
            state = after
        grammar.byte(state, b, closing)


def _as_numbers(kinds: Sequence[str]) -> set[str]:
    """Types that share no value."""
    return {"number" if kind == "integer" else kind for kind in kinds}


def _nesting(value: Any) -> int:
    """How deep lists and objects are inside one another."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [part for one in level for part in _parts(one)]
    return depth


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield from value.values() if isinstance(value, dict) else value
