"""Tokens that fit a schema, and answers that are whole whatever the model says."""

import json
from random import Random

import jsonschema
import numpy as np
import pytest

from benchmarks.random_schemas import random_schema
from mobile_runtime.errors import InputError
from mobile_runtime.sampling.sampling import Sampler
from mobile_runtime.sampling.structured.constraint import Constraint, Schema
from mobile_runtime.sampling.structured.vocabulary import Vocabulary

STOP, OTHER_STOP, THOUGHTS_END = 256, 257, 258
LONGER = (b'{"', b'":', b'": "', b'"}', b'", "', b"true", b"]}", b"12", b"\n\n", b"ab", b"\xc3\xa9")
TEXTS = [bytes([n]) for n in range(256)] + [b""] * 3 + list(LONGER)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}},
        "count": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "tags", "count"],
}
BEST = Sampler(0.0, 0, 1.0, 1.0)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(TEXTS)


def compiled(vocabulary, schema, thoughts_end=None):
    return Schema.compiled(schema, vocabulary, [OTHER_STOP, STOP], thoughts_end)


def answer(schema, room, seed, temperature=0.0):
    """(tokens, constraint) of an answer from logits drawn at random."""
    random = np.random.default_rng(seed)
    sampler = Sampler(temperature, 0, 1.0, 1.0, seed=seed)
    constraint, tokens = Constraint(schema, room), []
    while not constraint.is_over:
        logits = random.normal(size=len(TEXTS) + 3).astype(np.float32)
        token = constraint.next_token(sampler, logits, tokens)
        if token in schema.stops:
            break
        tokens.append(token)
    return tokens, constraint


def said(tokens):
    return b"".join(TEXTS[token] for token in tokens).decode()


def test_an_answer_is_whole_however_few_tokens_it_has(vocabulary):
    schema = compiled(vocabulary, SCHEMA)
    least = len(schema.ending(schema.machine.start()))
    shortened = 0
    for room in range(least, least + 40):
        tokens, constraint = answer(schema, room, seed=room)
        jsonschema.validate(json.loads(said(tokens)), SCHEMA)
        assert len(tokens) <= room
        shortened += constraint.was_shortened
    assert shortened > 0
    assert answer(schema, least, seed=0)[1].was_shortened
    with pytest.raises(InputError, match=f"has {least}; allow more tokens"):
        Constraint(schema, least - 1)


def test_answers_to_random_schemas_are_valid(vocabulary):
    random = Random(3)
    for seed in range(120):
        described = random_schema(random)
        schema = compiled(vocabulary, described)
        tokens, _ = answer(schema, 1000 if seed % 4 else 500, seed, temperature=seed % 2)
        jsonschema.validate(json.loads(said(tokens)), described)


def test_the_best_token_that_fits_is_chosen(vocabulary):
    schema = compiled(vocabulary, {"enum": ["ab", "a"]})
    constraint = Constraint(schema, 10)
    logits = np.zeros(len(TEXTS), np.float32)
    logits[ord('"')], logits[TEXTS.index(b"ab")], logits[ord("x")], logits[STOP] = 1, 2, 3, 9
    tokens = []
    while not constraint.is_over:
        tokens.append(constraint.next_token(BEST, logits, tokens))
    assert tokens == [ord('"'), TEXTS.index(b"ab"), ord('"')]
    assert not constraint.was_shortened


def test_a_stop_token_fits_where_the_answer_is_whole(vocabulary):
    schema = compiled(vocabulary, {"type": "integer"})
    constraint = Constraint(schema, 5)
    logits = np.zeros(len(TEXTS), np.float32)
    logits[STOP], logits[ord("7")] = 9, 1
    assert constraint.next_token(BEST, logits, []) == ord("7")
    assert constraint.next_token(BEST, logits, [ord("7")]) == STOP
    assert not constraint.was_shortened


def test_drawn_tokens_are_those_of_logits_without_the_others(vocabulary):
    """As Hugging Face's processors do it: what does not fit has −∞ before anything is drawn."""
    schema = compiled(vocabulary, {"type": "boolean"})
    random = np.random.default_rng(0)
    logits = random.normal(size=len(TEXTS)).astype(np.float32)
    fitting = [ord("t"), ord("f"), TEXTS.index(b"true")]
    masked = np.full_like(logits, -np.inf)
    masked[fitting] = logits[fitting]
    drawn = set()
    for seed in range(40):
        for top_k, top_p in ((0, 1.0), (2, 1.0), (100, 0.8)):
            one, two = (Sampler(1.5, top_k, top_p, 1.05, seed=seed) for _ in range(2))
            token = Constraint(schema, 9).next_token(one, logits, [])
            assert token == two.next_token(masked, [])
            drawn.add(token)
    assert drawn == set(fitting)


def test_thoughts_are_free_and_the_answer_follows(vocabulary):
    schema = compiled(vocabulary, SCHEMA, THOUGHTS_END)
    logits = np.zeros(len(TEXTS), np.float32)
    constraint = Constraint(schema, 60)
    logits[STOP], logits[ord("z")] = 9, 5
    assert constraint.next_token(BEST, logits, []) == ord("z")  # no stop in thoughts
    logits[THOUGHTS_END] = 8
    assert constraint.next_token(BEST, logits, [0]) == THOUGHTS_END
    logits[TEXTS.index(b"\n\n")] = 7
    assert constraint.next_token(BEST, logits, [0] * 2) == TEXTS.index(b"\n\n")
    assert constraint.next_token(BEST, logits, [0] * 3) in (ord("{"), TEXTS.index(b'{"'))
    shortened = 0
    for seed in range(20):
        tokens, constraint = answer(schema, 60 + seed, seed)
        end = tokens.index(THOUGHTS_END)
        jsonschema.validate(json.loads(said(tokens[end + 1 :])), SCHEMA)
        assert len(tokens) <= 60 + seed
        shortened += constraint.was_shortened
    assert shortened > 0


@pytest.mark.parametrize(
    ("schema", "begin"),
    [
        ({}, b""),
        ({}, b'{"'),
        ({}, b'"a\\'),
        ({}, b'"a\\u00'),
        ({}, b'"\xe4'),
        (SCHEMA, b'{"name":"'),
        (SCHEMA, b'{"name":"abcde'),
        (SCHEMA, b'{"name":"abcdefgh'),
        ({"anyOf": [{"type": "string", "maxLength": 3}, {"enum": ["international"]}]}, b'"int'),
        ({"properties": {"the": {}}, "additionalProperties": {}}, b'{"'),
        ({"properties": {"the": {}}, "additionalProperties": {}}, b'{"the'),
    ],
)
def test_all_tokens_at_once_are_those_one_by_one(published_vocabulary, schema, begin):
    machine = Schema.compiled(schema, published_vocabulary, [0]).machine
    state = machine.read(machine.start(), begin)
    found = published_vocabulary.allowed(machine, state)
    one_by_one = [
        published_vocabulary.read(machine, state, token) is not None for token in range(len(found))
    ]
    assert found.tolist() == one_by_one and any(one_by_one)


@pytest.fixture(scope="module")
def published_vocabulary(published):
    tokenizer, _ = published
    return Vocabulary(tokenizer.written_texts())


def test_added_tokens_write_no_answer(published, published_vocabulary):
    tokenizer, prompt = published
    schema = Schema.compiled({"type": "string"}, published_vocabulary, prompt.stop_token_ids)
    state = schema.machine.read(schema.machine.start(), b'"')
    allowed = published_vocabulary.allowed(schema.machine, state)
    assert not allowed[[special.id for special in prompt.special_tokens.values()]].any()
    assert allowed.sum() > 140_000
    tokens = published_vocabulary.spelled('{"naïve": true}'.encode())
    assert b"".join(map(tokenizer.token_bytes, tokens)).decode() == '{"naïve": true}'


def test_a_vocabulary_without_a_byte_is_refused():
    with pytest.raises(InputError, match="no token for the byte 0x7b"):
        Vocabulary([text for text in TEXTS if text != b"{"])
