"""One model's thread: what it tells of a request, which answers end early, which caches stay."""

import time
from copy import copy

import numpy as np
import pytest

from mobile_runtime.engines import EngineOptions
from mobile_runtime.serve.api_error import ApiError
from mobile_runtime.serve.chat_request import ChatRequest
from mobile_runtime.serve.kept_sessions import KeptSessions, count_within, session_bytes
from mobile_runtime.serve.token_scores import TokenScores
from mobile_runtime.serve.worker import Delta, Failed, Finished, Job, Started, Worker
from mobile_runtime.session import ChatOptions, Session
from tests.mobile_runtime.turns import gradient, user

OPTIONS = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=6)
LONG = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=300)
FP32 = EngineOptions(precision="fp32")


@pytest.fixture(scope="module")
def session(make_bundle):
    return Session.load(make_bundle("none", "state", 512), FP32)


@pytest.fixture
def worker(session):
    worker = Worker(copy(session), kept=2)
    worker.start()
    yield worker
    worker.stop(30)


def ask(worker, request, post=None, seconds=60.0):
    """The events of a request, read to their end."""
    events = []

    def keep(event):
        events.append(event)
        if post is not None:
            post(event, job)

    job = Job("a", request, time.monotonic() + seconds, keep)
    worker.queue.put(job)
    eventually(lambda: events and isinstance(events[-1], Finished | Failed))
    return events


def request(*messages, options=OPTIONS, **fields):
    return ChatRequest("m", messages, options, **fields)


def text_of(events):
    return "".join(event.part.text for event in events if isinstance(event, Delta))


def expected(session, *messages, options=OPTIONS):
    stream = session.fork().chat(messages, options)
    return "".join(stream), stream


def test_an_answer_is_the_session_s_own_and_counts_what_was_reused(worker, session):
    message = user(gradient(200, 200), "What is it?")
    answer, stream = expected(session, message)
    first, again = (ask(worker, request(message)) for _ in range(2))
    assert isinstance(first[0], Started)
    for events, reused in ((first, 0), (again, stream.statistics.prompt_tokens - 1)):
        assert text_of(events) == answer
        assert events[-1].reason == stream.finish_reason
        assert events[-1].statistics.reused_tokens == reused
        assert events[-1].statistics.new_tokens == stream.statistics.new_tokens


def test_an_onnx_bundle_is_answered_as_its_session_does(make_onnx_bundle):
    pytest.importorskip("onnxruntime")
    session = Session.load(make_onnx_bundle("onnx", "none"))
    message = user(gradient(200, 200), "word " * 30)
    answer, stream = expected(session, message)
    worker = Worker(copy(session), kept=2)
    worker.start()
    events = ask(worker, request(message))
    worker.stop(30)
    assert text_of(events) == answer
    assert events[-1].statistics.prompt_tokens == stream.statistics.prompt_tokens > 128


def test_an_answer_that_nobody_waits_for_ends_at_the_next_token(worker):
    def leave(event, job):
        if isinstance(event, Delta):
            worker.cancel(job)

    events = ask(worker, request(user("Go on."), options=LONG), leave)
    assert events[-1].statistics.new_tokens < 20


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("vision", "encode_view", user(gradient(900, 900), "What is it?")),
        ("decoder", "next_logits", user("word " * 90)),
    ],
)
@pytest.mark.parametrize("reason", ["left", "late"])
def test_a_prompt_that_nobody_waits_for_is_not_computed_to_its_end(
    session, monkeypatch, part, name, message, reason
):
    """The second view or block is computed, when the client leaves, and no third one."""
    computed = []
    inner = type(getattr(session.model, part))
    compute = getattr(inner, name)

    def count(self, *arguments):
        computed.append(name)
        if len(computed) == 2:
            job.cancelled.set() if reason == "left" else setattr(job, "deadline", 0.0)
        return compute(self, *arguments)

    told = []
    worker = Worker(copy(session), kept=2)
    job = Job("a", request(message), time.monotonic() + 60, told.append)
    with monkeypatch.context() as patch:
        patch.setattr(inner, name, count)
        worker.queue.put(job)
        worker.start()
        eventually(lambda: told and isinstance(told[-1], Failed))
    assert len(computed) == 2
    answer, _ = expected(session, message)
    assert text_of(ask(worker, request(message))) == answer
    worker.stop(30)


def eventually(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_an_answer_is_cut_at_its_deadline(worker):
    def wait(event, job):
        if isinstance(event, Delta):
            job.deadline = 0.0

    events = ask(worker, request(user("Go on."), options=LONG), wait)
    assert events[-1].reason == "length"
    assert events[-1].statistics.new_tokens < 20


def test_a_stop_sequence_ends_the_answer_before_it(worker, session):
    answer, _ = expected(session, user("Hello"), options=LONG)
    stop = answer[10:12]
    events = ask(worker, request(user("Hello"), options=LONG, stops=(stop,)))
    assert text_of(events) == answer[: answer.index(stop)]
    assert events[-1].reason == "stop"
    assert events[-1].statistics.new_tokens < 60


def test_scores_are_those_of_the_tokens_in_the_text(worker, session):
    _, stream = expected(session, user("Hello"))
    events = ask(worker, request(user("Hello"), top_logprobs=3))
    scores = [score for event in events if isinstance(event, Delta) for score in event.scores]
    assert [score.token for score in scores] == stream.token_ids
    assert all(score.top[0] == (score.token, score.logprob) for score in scores), "greedy"
    assert all(len(score.top) == 3 for score in scores)


def test_scores_are_logarithms_of_the_softmax(session):
    logits = np.random.default_rng(0).normal(0, 9, 50).astype(np.float32)
    scores = TokenScores(session.tokenizer, 50)
    scores.add(7, logits)
    scores.place(1)
    (score,) = scores.within(0, 1)
    exact = np.exp(logits.astype(np.longdouble))
    exact = np.log(exact / exact.sum())
    assert score.logprob == pytest.approx(float(exact[7]), abs=1e-12)
    assert [token for token, _ in score.top] == list(np.argsort(-exact))
    assert sum(np.exp(value) for _, value in score.top) == pytest.approx(1)


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        ((user("word " * 600),), OPTIONS, "the prompt has"),
        ((user("Hi"),), ChatOptions(temperature=-1.0), "temperature is -1"),
        ((user("Hi"),), ChatOptions(max_new_tokens=0), "max_new_tokens is 0"),
        (
            ({"role": "user", "content": [{"type": "image", "image": "data:,x"}]},),
            OPTIONS,
            "not a picture",
        ),
    ],
)
def test_what_a_session_refuses_is_the_client_s_mistake(worker, messages, options, words):
    (event,) = ask(worker, request(*messages, options=options))
    assert (event.error.status, words in event.error.message) == (400, True)


def test_a_fault_of_ours_is_told_as_one_and_the_next_answer_is_unharmed(
    worker, session, monkeypatch, capfd
):
    with monkeypatch.context() as patch:
        patch.setattr(session.model.vision, "encode_view", None)  # calling it fails
        events = ask(worker, request(user(gradient(150, 150), "What?")))
    assert events[-1].error.status == 500
    assert "NoneType" not in events[-1].error.message and "NoneType" in capfd.readouterr().err
    answer, _ = expected(session, user("Hello"))
    assert text_of(ask(worker, request(user("Hello")))) == answer


def test_who_waits_is_told_when_the_server_stops(session):
    worker = Worker(copy(session), kept=1)
    told = []
    worker.queue.put(Job("a", request(user("Hi")), time.monotonic() + 9, told.append))
    worker.refuse_waiting()
    assert [event.error.status for event in told] == [503]
    assert isinstance(told[0].error, ApiError) and told[0].error.retry_after


LONG_TEXT = "word " * 30


def conversation(kept, session, *turns):
    """Prefill the messages on the session that is kept for them; how many tokens it reused."""
    prompt = session.prepare(turns)
    chosen = kept.take(prompt)
    stream = chosen.answer(prompt, OPTIONS)
    list(stream)
    return chosen, stream


def test_branches_of_a_conversation_are_both_kept(session):
    kept = KeptSessions(session, 3)
    begin = (user(LONG_TEXT), {"role": "assistant", "content": "Yes."})
    ends = [user(name + " then " * 15) for name in ("A", "B")]
    first, _ = conversation(kept, session, *begin, ends[0])
    second, stream = conversation(kept, session, *begin, ends[1])
    assert second is not first
    assert stream.statistics.reused_tokens > 60, "the common beginning was copied"
    for end, chosen in zip(ends, (first, second), strict=True):
        again, stream = conversation(kept, session, *begin, end)
        assert again is chosen
        assert stream.statistics.reused_tokens == stream.statistics.prompt_tokens - 1
        _, fresh = expected(session, *begin, end)
        assert stream.token_ids == fresh.token_ids


def test_the_least_recently_used_conversation_goes(session):
    kept = KeptSessions(session, 2)
    texts = [user(f"{name} " + LONG_TEXT) for name in ("One", "Two", "Three")]
    one, _ = conversation(kept, session, texts[0])
    conversation(kept, session, texts[1])
    assert conversation(kept, session, texts[0])[0] is one
    conversation(kept, session, texts[2])
    assert len(kept) == 2
    assert conversation(kept, session, texts[0])[0] is one, "it was used after the second"
    _, stream = conversation(kept, session, texts[1])
    assert stream.statistics.reused_tokens < 10


def test_the_next_turn_goes_on_in_the_same_session(session):
    kept = KeptSessions(session, 2)
    first, stream = conversation(kept, session, user(LONG_TEXT))
    told = (user(LONG_TEXT), {"role": "assistant", "content": "Good."}, user("And?"))
    again, stream = conversation(kept, session, *told)
    assert again is first and len(kept) == 1
    assert stream.statistics.reused_tokens > 60


def test_other_pictures_share_only_what_is_before_them(session):
    kept = KeptSessions(session, 2)
    one, two = (user(gradient(200, 200, shift), "What?") for shift in (0, 9))
    conversation(kept, session, one)
    _, stream = conversation(kept, session, two)
    assert stream.statistics.reused_tokens < 10
    _, stream = conversation(kept, session, one)
    assert stream.statistics.reused_tokens == stream.statistics.prompt_tokens - 1


def test_memory_is_that_of_the_cache_and_of_pictures_that_fill_it(session):
    manifest = session.manifest
    shape, context = manifest.architecture, manifest.decoding.context_length
    fork = session.fork()
    list(fork.chat([user("Hi")], OPTIONS))
    cache = sum(array.nbytes for array in fork.model.decoder.cache(context).values())
    assert session_bytes(manifest) == cache + context * shape.hidden_size * 4
    assert count_within(3 * session_bytes(manifest) + 1, manifest) == 3
    assert count_within(1, manifest) == 1
