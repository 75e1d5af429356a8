"""What fits a schema, by a table that other languages read too, and by jsonschema as a judge."""

import json
from itertools import product
from random import Random

import jsonschema
import pytest

from benchmarks.random_schemas import random_schema
from mobile_runtime.errors import InputError
from mobile_runtime.sampling.structured.grammar import Grammar, utf8_sequences
from mobile_runtime.sampling.structured.machine import DEEPEST, Machine
from mobile_runtime.sampling.structured.schema import compile_schema
from tests.paths import ROOT

TABLE = json.loads((ROOT / "tests/schema_cases.json").read_text(encoding="utf-8"))


def machine_of(schema):
    return Machine(*compile_schema(schema))


def fits(machine, text):
    state = machine.read(machine.start(), text.encode())
    return state is not None and state.complete


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["name"])
def test_texts_fit_or_do_not(case):
    machine = machine_of(case["schema"])
    assert [text for text in case["fits"] if not fits(machine, text)] == []
    assert [text for text in case["fails"] if fits(machine, text)] == []
    assert machine.shortest(machine.start()).decode() == case["shortest"]
    judge = jsonschema.Draft202012Validator(case["schema"])
    for text in (*case["fits"], case["shortest"]):
        assert judge.is_valid(json.loads(text)), text


@pytest.mark.parametrize("case", TABLE["refused"], ids=lambda case: case["words"])
def test_what_cannot_be_held_to_is_refused(case):
    with pytest.raises(InputError) as caught:
        machine_of(case["schema"])
    message = str(caught.value)
    assert case["words"] in message and message.endswith(".") and "\n" not in message


def test_a_schema_must_be_json():
    for schema in ({"const": float("nan")}, {"const": {1, 2}}, {"const": "\ud800"}):
        with pytest.raises(InputError, match="no JSON"):
            compile_schema(schema)
    nested = {}
    for _ in range(200):
        nested = {"items": nested}
    with pytest.raises(InputError, match="nested deeper"):
        compile_schema(nested)


def test_random_walks_are_valid():
    """Bytes drawn at random, then the shortest ending."""
    random = Random(1)
    for _ in range(150):
        schema = random_schema(random)
        judge = jsonschema.Draft202012Validator(schema)
        machine = machine_of(schema)
        for length in (0, 5, 40):
            state, text = machine.start(), bytearray()
            while len(text) < length and not state.over:
                byte = random.choice([b for b in range(256) if machine.step(state, b)])
                state = machine.step(state, byte)
                text.append(byte)
            ending = machine.shortest(state)
            assert len(ending) == machine.shortest_length(state)
            value = json.loads((text + ending).decode())
            assert judge.is_valid(value), (schema, value)


def test_numbers_fit_exactly_if_they_lie_between_the_bounds():
    random = Random(2)
    texts = [str(n) for n in range(-130, 131)]
    texts += [
        f"{sign}{n}.{d}" for sign, n, d in product(("", "-"), (0, 1, 9, 10), ("0", "05", "5"))
    ]
    for _ in range(60):
        low, high = sorted(random.sample((-111, -100, -10, -9.5, -1, -0.05, 0, 1, 9, 10.5, 99), 2))
        for kind in ("integer", "number"):
            schema = {"type": kind, "minimum": low, "exclusiveMaximum": high}
            judge = jsonschema.Draft202012Validator(schema)
            try:
                machine = machine_of(schema)
            except InputError:
                assert not any(judge.is_valid(int(t)) for t in texts if "." not in t)
                continue
            for text in texts:
                if "." in text and kind == "integer":
                    continue
                negative_zero = text[0] == "-" and float(text) == 0
                assert fits(machine, text) == (
                    judge.is_valid(json.loads(text)) and not negative_zero
                )


def test_utf8_is_that_of_python():
    """All characters, each once: as many sequences as characters, and those of Python's codec."""
    sequences = utf8_sequences(0, 0x10FFFF)
    count = 0
    for sequence in sequences:
        size = 1
        for low, high in sequence:
            size *= high - low + 1
        count += size
    assert count == 0x110000 - 0x800
    for point in (*range(0, 0xD800, 7), 0xD7FF, *range(0xE000, 0x110000, 97), 0xFFFF, 0x10FFFF):
        found = [
            s
            for s in sequences
            if len(s) == len(chr(point).encode())
            and all(low <= b <= high for b, (low, high) in zip(chr(point).encode(), s, strict=True))
        ]
        assert len(found) == 1


def test_a_range_of_characters_reads_no_others():
    grammar = Grammar()
    rule = grammar.rule()
    grammar.characters(rule.start, rule.end, [(0x7E, 0x801), (0xFFFE, 0x10001)])
    machine = Machine(grammar, rule)
    inside = [*range(0x7E, 0x802), *range(0xFFFE, 0x10002)]
    outside = [0x7D, 0x802, 0xFFFD, 0x10002]
    assert all(fits(machine, chr(point)) for point in inside)
    assert not any(fits(machine, chr(point)) for point in outside)


def test_values_are_nested_no_deeper_than_readers_take():
    machine = machine_of({})
    state, depth = machine.start(), 0
    while (after := machine.step(state, ord("["))) is not None:
        state, depth = after, depth + 1
    assert depth == DEEPEST + 1
    text = b"[" * depth + machine.shortest(state)
    assert json.loads(text) is not None


def test_too_many_ways_to_read_are_refused():
    one = {"type": "array", "items": {"$ref": "#"}}
    machine = machine_of({"anyOf": [one, {**one, "maxItems": 9}, {**one, "minItems": 1}]})
    with pytest.raises(InputError, match="too many ways"):
        machine.read(machine.start(), b"[" * 30)
