"""Answers with guessed tokens are those without, whatever the format and the cache."""

from dataclasses import replace
from itertools import count

import pytest

from export.backends import BACKENDS
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from mobile_runtime.cli import main
from mobile_runtime.engines import EngineOptions
from mobile_runtime.session import GREEDY, ChatOptions, Session
from tests.mobile_runtime.turns import user

PROMPTS = [
    "Hi",
    "Say it again: one two three one two three one two three",
    "abc abc abc abc abc abc",
    "List: 2026-11-30, 2026-11-30, 2026-11-30.",
    *(f"Question {n}: {'again and again ' * n}" for n in range(3)),
]


@pytest.fixture(
    scope="module",
    params=["coreml", "onnx"],
)
def session(request, random_checkpoint, tmp_path_factory):
    """In float32: in half precision, two tokens of a random model are often equally good, and
    blocks of several positions add up in another order than single ones."""
    config = ExportConfig(
        checkpoint=str(random_checkpoint),
        output=tmp_path_factory.mktemp("guessing"),
        quant="none",
        context_length=256,
    )
    bundle = export_bundle(config, BACKENDS[request.param], Progress(quiet=True))
    return Session.load(bundle, EngineOptions(precision="fp32", threads=1))


@pytest.fixture
def always_pays(monkeypatch):
    """A clock by which every run takes as long as one token."""
    ticks = count()
    monkeypatch.setattr("mobile_runtime.session.time.perf_counter", lambda: float(next(ticks)))


def answer(session, text, speculate, options):
    session.speculate = speculate
    stream = session.chat([user(text)], options)
    list(stream)
    return stream


def test_greedy_answers_are_the_same(session, always_pays):
    drafted = accepted = 0
    for text in PROMPTS:
        options = replace(GREEDY, max_new_tokens=32)
        plain, guessed = (answer(session, text, on, options) for on in (False, True))
        assert guessed.token_ids == plain.token_ids
        assert guessed.finish_reason == plain.finish_reason
        assert plain.statistics.drafted_tokens == 0
        drafted += guessed.statistics.drafted_tokens
        accepted += guessed.statistics.accepted_tokens
    assert drafted > accepted > 10  # some of each kind


def test_a_penalty_counts_tokens_that_were_guessed(session, always_pays):
    options = replace(GREEDY, repetition_penalty=1.05, max_new_tokens=24)
    plain, guessed = (answer(session, PROMPTS[2], on, options) for on in (False, True))
    assert guessed.token_ids == plain.token_ids


def test_an_answer_fills_the_context_to_its_end(session, always_pays):
    options = replace(GREEDY, max_new_tokens=10_000)
    plain, guessed = (answer(session, "ab" * 105, on, options) for on in (False, True))
    assert guessed.token_ids == plain.token_ids
    assert guessed.finish_reason == plain.finish_reason


def test_the_conversation_goes_on_as_without(session, always_pays):
    options = replace(GREEDY, max_new_tokens=16)
    asked = [user(PROMPTS[1])]
    found = []
    for on in (False, True):
        session.reset()
        session.speculate = on
        said = "".join(session.chat(asked, options))
        talk = [*asked, {"role": "assistant", "content": said}, user("And again?")]
        fork = session.fork()
        streams = [one.chat(talk, options) for one in (session, fork)]
        for stream in streams:
            list(stream)
        found.append([stream.token_ids for stream in streams])
    assert found[0] == found[1]


def test_drawn_answers_guess_nothing(session, always_pays):
    options = ChatOptions(temperature=1.0, top_k=1, seed=1, max_new_tokens=12)
    stream = answer(session, PROMPTS[1], True, options)
    assert stream.statistics.drafted_tokens == 0


def test_the_command_takes_the_option(make_bundle, capsys):
    bundle = str(make_bundle("int4-fast"))
    said = []
    for flags in ([], ["--speculate"]):
        assert main(["chat", bundle, "--greedy", "--max-new-tokens", "6", *flags, "Hi Hi Hi"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
