"""A session over an ONNX bundle: pieces of a prompt, the shared cache, turns, limits."""

import numpy as np
import pytest

from mobile_runtime.engines import EngineOptions
from mobile_runtime.engines.onnx import OnnxEngine
from mobile_runtime.errors import InputError
from mobile_runtime.session import ChatOptions, Session
from tests.mobile_runtime.turns import gradient, user

CONTEXT, PIECE = 320, 64
GREEDY = {"temperature": 0, "repetition_penalty": 1.0}
# Float32 sums in another order; logits of the random model are up to about 4.
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def sessions(make_onnx_bundle):
    """The same unquantized model in both profiles, with float32 activations and cache."""
    options = EngineOptions(precision="fp32")
    return {
        backend: Session.load(make_onnx_bundle(backend, "none"), options)
        for backend in ("onnx", "onnx-portable")
    }


@pytest.fixture(params=["onnx", "onnx-portable"])
def session(request, sessions):
    sessions[request.param].reset()
    return sessions[request.param]


def rows(session, count, seed=0):
    return session.model.embedding(np.random.default_rng(seed).integers(0, 250, count))


def one_by_one(session, embeddings):
    session.reset()
    logits = None
    for position, row in enumerate(embeddings):
        logits = session.model.decoder.next_logits(row[None], position)
    return logits


def answer(session, messages, **options):
    stream = session.chat(messages, ChatOptions(**GREEDY, **options))
    text = "".join(stream)
    return text, stream


@pytest.mark.parametrize("length", [1, 2, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 5])
def test_a_prompt_in_pieces_equals_single_steps(session, length):
    embeddings = rows(session, length)
    expected = one_by_one(session, embeddings)
    session.reset()
    got = session.model.decoder.next_logits(embeddings, 0)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


@pytest.mark.parametrize("cut", [1, 37, PIECE, 199])
def test_a_prompt_continued_anywhere_equals_one_piece(session, cut):
    embeddings, decoder = rows(session, 200), session.model.decoder
    engine = decoder._engine
    whole = engine.run(
        {
            "inputs_embeds": embeddings[None],
            "attention_mask": np.ones((1, 200), np.int64),
            "num_logits_to_keep": np.array([1], np.int64),
        },
        state=engine.new_state(CONTEXT),
    )["logits"][0, -1]
    decoder.next_logits(embeddings[:cut], 0)
    got = decoder.next_logits(embeddings[cut:], cut)
    np.testing.assert_allclose(got, whole, atol=TOLERANCE)


def test_both_profiles_give_the_same_logits(sessions):
    fast, portable = sessions.values()
    embeddings = rows(fast, 150)
    expected = fast.model.decoder.next_logits(embeddings, 0)
    got = portable.model.decoder.next_logits(embeddings, 0)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


def test_the_cache_is_full_to_its_last_row(session):
    embeddings = rows(session, CONTEXT)
    expected = one_by_one(session, embeddings)
    for start in (CONTEXT - PIECE - 1, CONTEXT - PIECE, CONTEXT - 1):
        session.reset()
        session.model.decoder.next_logits(embeddings[:start], 0)
        got = session.model.decoder.next_logits(embeddings[start:], start)
        np.testing.assert_allclose(got, expected, atol=TOLERANCE)


def test_what_lies_behind_the_position_is_never_read(session):
    """A shorter conversation after a longer one needs no cleaning."""
    embeddings, decoder = rows(session, 40), session.model.decoder
    expected = decoder.next_logits(embeddings, 0)
    decoder.next_logits(1000 * rows(session, CONTEXT, seed=1), 0)
    session.reset()
    np.testing.assert_array_equal(decoder.next_logits(embeddings, 0), expected)


@pytest.mark.parametrize(("kept", "expected"), [(0, 9), (1, 1), (3, 3), (9, 9)])
def test_num_logits_to_keep_counts_from_the_end(make_onnx_bundle, kept, expected):
    bundle = make_onnx_bundle("onnx", "none")
    session = Session.load(bundle, EngineOptions(precision="fp32"))
    embeddings = rows(session, 9)
    engine = OnnxEngine.load(bundle / "decoder_model_merged.onnx")

    def logits(count):
        inputs = {
            "inputs_embeds": embeddings[None],
            "attention_mask": np.ones((1, 9), np.int64),
            "num_logits_to_keep": np.array([count], np.int64),
        }
        return engine.run(inputs, state=engine.new_state(CONTEXT))["logits"]

    got = logits(kept)
    assert got.shape[:2] == (1, expected)
    steps = [session.model.decoder.next_logits(row[None], n) for n, row in enumerate(embeddings)]
    np.testing.assert_allclose(got[0], steps[-expected:], atol=TOLERANCE)


def test_second_turn_with_reused_cache_equals_a_fresh_session(session):
    first = [user(gradient(200, 300), "One?")]
    text, _ = answer(session, first, max_new_tokens=10)
    second = [*first, {"role": "assistant", "content": text}, user("Two?")]
    _, reused = answer(session, second, max_new_tokens=10)
    assert reused.statistics.reused_tokens > session.manifest.preprocessing.num_queries
    session.reset()
    _, fresh = answer(session, second, max_new_tokens=10)
    assert fresh.statistics.reused_tokens == 0
    assert fresh.token_ids == reused.token_ids


def test_a_full_context_ends_the_answer(session):
    _, stream = answer(session, [user("word " * 50)], max_new_tokens=10_000)
    assert stream.finish_reason == "context_full"
    assert stream.statistics.prompt_tokens + stream.statistics.new_tokens == CONTEXT + 1


def test_cancel_ends_the_answer_and_the_next_one_is_unharmed(session):
    message = [user("Count to ten.")]
    _, expected = answer(session, message, max_new_tokens=12)
    stream = session.chat(message, ChatOptions(**GREEDY, max_new_tokens=12))
    for number, _ in enumerate(stream):
        if number == 2:
            stream.cancel()
    assert stream.finish_reason == "cancelled"
    assert len(stream.token_ids) < 12
    _, again = answer(session, message, max_new_tokens=12)
    assert again.token_ids == expected.token_ids


def test_rows_of_a_batch_do_not_see_each_other(session):
    """Two texts at once give what each gives alone."""
    engine = session.model.decoder._engine
    texts = [rows(session, 12, seed) for seed in (0, 1)]
    session.reset()
    expected = []
    for text in texts:
        expected.append(session.model.decoder.next_logits(text, 0))
    state = {
        value.name: np.zeros((2, value.shape[1], CONTEXT, value.shape[3]), np.float32)
        for value in engine._session.get_inputs()
        if value.name.startswith("past_key_values")
    }
    inputs = {
        "inputs_embeds": np.stack(texts),
        "attention_mask": np.ones((2, 12), np.int64),
        "num_logits_to_keep": np.array([1], np.int64),
    }
    logits = engine.run({**inputs, **state})["logits"]
    np.testing.assert_allclose(logits[:, -1], np.stack(expected), atol=TOLERANCE)


def test_a_picture_of_more_patches_than_the_bundle_takes_is_refused(session):
    with pytest.raises(InputError, match="the bundle takes 1088"):
        session.prepare([user(gradient(14, 2000), "Long?")])
