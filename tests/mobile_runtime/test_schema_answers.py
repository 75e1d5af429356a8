"""Answers of a session that fit a schema: whole, valid, and the same with guessed tokens."""

import json
from dataclasses import replace
from itertools import count

import jsonschema
import pytest

from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.cli import main
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.session import GREEDY, ChatOptions, Session
from tests.mobile_runtime.turns import user

SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "notes": {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 1},
    },
    "required": ["colour", "notes"],
}
HELD = replace(GREEDY, schema=SCHEMA, max_new_tokens=48)


@pytest.fixture(scope="module")
def bundle(make_bundle):
    return make_bundle("none", "state", 512)


@pytest.fixture(scope="module")
def session(bundle):
    return Session.load(bundle, EngineOptions(precision="fp32"))


def ask(session, options, text="Hi"):
    """(text, stream) of a whole answer."""
    stream = session.chat([user(text)], options)
    return "".join(stream), stream


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_fits_and_the_conversation_goes_on(session, temperature):
    options = replace(HELD, temperature=temperature, seed=1)
    text, stream = ask(session, options)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert stream.finish_reason == "length"  # random weights never come to an end
    assert len(stream.token_ids) <= 48
    talk = [user("Hi"), {"role": "assistant", "content": text}, user("And?")]
    again = session.chat(talk, options)
    jsonschema.validate(json.loads("".join(again)), SCHEMA)
    assert again.statistics.reused_tokens > 0


def test_an_answer_that_can_only_end_stops(session):
    text, stream = ask(session, replace(HELD, schema={"const": [1, "x"]}))
    assert json.loads(text) == [1, "x"] and stream.finish_reason == "stop"


def test_a_full_context_ends_a_whole_answer(session):
    options = replace(HELD, max_new_tokens=10_000)
    text, stream = ask(session, options, "ab" * 200)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert stream.finish_reason == "length"
    assert stream.statistics.prompt_tokens + len(stream.token_ids) <= 512 + 1


def test_thoughts_are_free(session):
    options = replace(HELD, prompt=PromptOptions(enable_thinking=True), max_new_tokens=64)
    text, stream = ask(session, options)
    thoughts, answer = text.split("</think>")
    assert thoughts.startswith("<think>\n")
    jsonschema.validate(json.loads(answer), SCHEMA)
    assert len(stream.token_ids) <= 64


def test_guessed_tokens_change_no_answer(session, monkeypatch):
    ticks = count()
    monkeypatch.setattr("mobile_runtime.session.time.perf_counter", lambda: float(next(ticks)))
    copied = {"type": "array", "items": {"const": "abcabc"}, "minItems": 10}
    options = replace(HELD, schema=copied, max_new_tokens=150)
    found, drafted = [], []
    for on in (False, True):
        session.speculate = on
        _, stream = ask(session, options, "abcabc abcabc")
        found.append(stream.token_ids)
        drafted.append(stream.statistics.drafted_tokens)
    session.speculate = False
    assert found[0] == found[1]
    assert drafted[0] == 0 < drafted[1]


def test_mistakes_are_told_before_anything_is_computed(session):
    with pytest.raises(InputError, match="schema has 'pattern'"):
        session.chat([user("Hi")], ChatOptions(schema={"pattern": "a"}))
    with pytest.raises(InputError, match="room for 4 tokens"):
        session.chat([user("Hi")], replace(HELD, max_new_tokens=4))


def test_the_command_holds_answers_to_a_file(bundle, tmp_path, capsys):
    path = tmp_path / "schema.json"
    asked = ["chat", str(bundle), "--greedy", "--schema", str(path), "--max-new-tokens", "48", "Hi"]
    path.write_text(json.dumps(SCHEMA))
    assert main(asked) == 0
    said = capsys.readouterr()
    jsonschema.validate(json.loads(said.out), SCHEMA)
    assert "ended early" in said.err
    for content, words in (('{"format": "date"}', "has 'format'"), ("{", "not valid JSON")):
        path.write_text(content)
        assert main(asked) == 2
        said = capsys.readouterr()
        assert said.out == "" and words in said.err
    path.unlink()
    assert main(asked) == 2
    assert "give a JSON Schema" in capsys.readouterr().err
