"""Forks: sessions on one open model that go on independently, each as if it were the only one."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest

import pytest

from mobile_runtime.errors import InputError
from mobile_runtime.session import ChatOptions, Session
from tests.mobile_runtime.turns import gradient, user

OPTIONS = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=6)
SHOWN = user(gradient(200, 300), "One?")
LOST = "asked something else before this answer was read to its end"


@pytest.fixture(scope="module")
def sessions(make_bundle, make_onnx_bundle):
    """A model of each form of the cache, as it is opened by default."""
    bundles = {kind: make_bundle("none", kind, 256) for kind in ("state", "io")}
    bundles["float32"] = make_onnx_bundle("onnx", "none")
    bundles["int8"] = make_onnx_bundle("onnx", "int4-fast", "int8")
    return {kind: Session.load(bundle) for kind, bundle in bundles.items()}


@pytest.fixture(params=["state", "io", "float32", "int8"])
def session(request, sessions):
    sessions[request.param].reset()
    return sessions[request.param]


def answer(session, *messages):
    stream = session.chat(messages, OPTIONS)
    text = "".join(stream)
    return text, stream


def test_both_go_on_from_where_the_fork_was_made(session, monkeypatch):
    first, _ = answer(session, SHOWN)
    told = (SHOWN, {"role": "assistant", "content": first})
    fork = session.fork()
    with monkeypatch.context() as patch:
        patch.setattr(session.model.vision, "encode_view", None)  # calling it would fail
        found = [
            answer(one, *told, user(said)) for one, said in ((session, "Two?"), (fork, "Three?"))
        ]
    assert all(stream.statistics.reused_tokens > 64 for _, stream in found)
    session.reset()
    for (_, stream), said in zip(found, ("Two?", "Three?"), strict=True):
        _, fresh = answer(session, *told, user(said))
        assert stream.token_ids == fresh.token_ids


def test_streams_of_two_forks_are_read_in_turns(session):
    answer(session, SHOWN)
    fork = session.fork()
    asked = (user("A?"), user("Another one altogether?"))
    expected = [answer(session, message)[0] for message in asked]
    streams = [iter(one.chat([m], OPTIONS)) for one, m in zip((session, fork), asked, strict=True)]
    pairs = list(zip_longest(*streams, fillvalue=""))
    assert ["".join(pieces) for pieces in zip(*pairs, strict=True)] == expected


def test_each_fork_has_one_owner_of_its_cache(session):
    expected, _ = answer(session, user("A?"))
    lost = iter(session.chat([user("B?")], OPTIONS))
    kept = iter(session.chat([user("A?")], OPTIONS))
    next(lost)
    begun = next(kept)
    fork = session.fork()
    with pytest.raises(InputError, match=LOST):
        list(lost)
    older = iter(fork.chat([user("B?")], OPTIONS))
    next(older)
    answer(fork, user("C?"))
    with pytest.raises(InputError, match=LOST):
        list(older)
    assert "".join(chain([begun], kept)) == expected, "what forks do is nothing to this one"


def test_a_fork_of_a_fork_outlives_what_it_comes_from(session):
    expected, _ = answer(session, SHOWN)
    fork = session.fork().fork()
    session.reset()
    answer(session, user("Something else altogether, and longer?"))
    text, stream = answer(fork, SHOWN)
    assert text == expected
    assert stream.statistics.reused_tokens == stream.statistics.prompt_tokens - 1


def test_a_fork_of_an_empty_session_answers(session):
    fork = session.fork()
    assert answer(fork, SHOWN)[0] == answer(session, SHOWN)[0]


def test_threads_with_a_fork_each_answer_as_if_they_were_alone(session):
    asked = [user(f"Question {n}?") for n in range(3)]
    expected = [answer(session, message)[0] for message in asked]
    forks = [session.fork() for _ in asked]
    with ThreadPoolExecutor(len(forks)) as pool:
        for _ in range(3):
            found = pool.map(lambda one, message: answer(one, message)[0], forks, asked)
            assert list(found) == expected


def test_a_fork_opens_nothing(make_bundle, monkeypatch):
    from mobile_runtime.model import static_decoder

    session = Session.load(make_bundle("none", "state", 256), verify=False)
    fork = session.fork()  # before anything is open
    opened = []
    open_engine = static_decoder.open_engine

    def count(path, options):
        opened.append(path.name)
        return open_engine(path, options)

    monkeypatch.setattr(static_decoder, "open_engine", count)
    assert answer(fork, user("A?"))[0] == answer(session, user("A?"))[0]
    assert len(opened) == len(set(opened)) > 1
