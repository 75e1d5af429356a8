"""A session over a saved bundle: blocks, caches, turns, limits."""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from export.cli import main as export_main
from mobile_runtime.chat import media
from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.files import sealed_json
from mobile_runtime.pictures.video import VideoInfo
from mobile_runtime.session import GREEDY, ChatOptions, Session, Statistics
from tests.mobile_runtime.turns import gradient, user

FP32 = EngineOptions(precision="fp32")
CONTEXT = 256


@pytest.fixture(scope="module")
def sessions(make_bundle):
    """The same model with both forms of the cache."""
    return {
        kind: Session.load(make_bundle("none", kind, CONTEXT), FP32) for kind in ("state", "io")
    }


@pytest.fixture(params=["state", "io"])
def session(request, sessions):
    sessions[request.param].reset()
    return sessions[request.param]


def one_by_one(session, embeddings):
    """Hidden states of the last position, every row run on its own."""
    session.reset()
    hidden = None
    for position, row in enumerate(embeddings):
        hidden = session.model.decoder.run_block(row[None], position)[-1]
    return hidden


@pytest.mark.parametrize("start", range(64))
def test_a_block_at_any_start_equals_single_steps(session, start):
    rng = np.random.default_rng(start)
    ids = rng.integers(0, 200, start + 40)
    embeddings = session.model.embedding(ids)
    expected = one_by_one(session, embeddings)
    session.reset()
    if start:
        session.model.decoder.run(embeddings[:start], 0)
    got = session.model.decoder.run(embeddings[start:], start)
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_blocks_near_the_end_never_pass_the_cache(session):
    embeddings = session.model.embedding(np.arange(CONTEXT) % 250)
    expected = one_by_one(session, embeddings)
    for start in (CONTEXT - 65, CONTEXT - 64, CONTEXT - 63, CONTEXT - 1):
        session.reset()
        session.model.decoder.run(embeddings[:start], 0)
        got = session.model.decoder.run(embeddings[start:], start)
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_state_and_io_give_the_same_tokens(sessions):
    tokens = {}
    for kind, session in sessions.items():
        session.reset()
        options = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=24)
        stream = session.chat([user(gradient(300, 200), "What is it?")], options)
        list(stream)
        tokens[kind] = stream.token_ids
    assert tokens["state"] == tokens["io"]
    assert len(tokens["state"]) == 24


def test_second_turn_with_reused_cache_equals_a_fresh_session(session):
    options = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=10)
    first = [user(gradient(200, 300), "One?")]
    stream = session.chat(first, options)
    answer = "".join(stream)
    second = [*first, {"role": "assistant", "content": answer}, user("Two?")]
    reused = session.chat(second, options)
    list(reused)
    assert reused.statistics.reused_tokens > session.manifest.preprocessing.num_queries
    session.reset()
    fresh = session.chat(second, options)
    list(fresh)
    assert fresh.statistics.reused_tokens == 0
    assert fresh.token_ids == reused.token_ids


def test_another_picture_under_the_same_words_is_not_reused(session):
    options = ChatOptions(temperature=0, max_new_tokens=4)
    list(session.chat([user(gradient(200, 200), "Same?")], options))
    other = session.chat([user(gradient(200, 200, shift=9), "Same?")], options)
    list(other)
    before_picture = other.statistics.reused_tokens
    assert before_picture < session.manifest.preprocessing.num_queries


def test_a_cached_picture_is_not_encoded_again(session, monkeypatch):
    message = user(gradient(200, 200), "Which?")
    options = ChatOptions(temperature=0, max_new_tokens=2)
    list(session.chat([message], options))

    def refuse(*_):
        raise AssertionError("encoded twice")

    monkeypatch.setattr(session.model.vision, "encode_view", refuse)
    list(session.chat([message], options))


def test_pictures_that_do_not_fit_the_context_are_refused_before_they_are_encoded(
    session, monkeypatch
):
    monkeypatch.setattr(session.model.vision, "encode_view", None)  # calling it would fail
    with pytest.raises(InputError, match=r"the prompt has \d+ tokens, 640 of them for pictures"):
        session.chat([user(gradient(1344, 1344), "Too large?")])


def test_a_full_context_ends_the_answer(session):
    options = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=10_000)
    stream = session.chat([user("word " * 38)], options)
    list(stream)
    assert stream.finish_reason == "context_full"
    assert stream.statistics.prompt_tokens + stream.statistics.new_tokens == CONTEXT + 1


def test_cancel_ends_the_answer_and_the_next_one_is_unharmed(session):
    options = ChatOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=12)
    message = [user("Count to ten.")]
    expected = session.chat(message, options)
    list(expected)
    stream = session.chat(message, options)
    for number, _ in enumerate(stream):
        if number == 2:
            stream.cancel()
    assert stream.finish_reason == "cancelled"
    assert len(stream.token_ids) < 12
    again = session.chat(message, options)
    list(again)
    assert again.token_ids == expected.token_ids


def test_a_stream_computes_nothing_before_it_is_read(session):
    stream = session.chat([user("Hi")], ChatOptions(temperature=0, max_new_tokens=3))
    assert (stream.statistics, stream.token_ids, stream.finish_reason) == (Statistics(), [], None)
    assert iter(stream) is iter(stream)
    list(stream)
    assert (stream.statistics.new_tokens, len(stream.token_ids)) == (3, 3)
    assert stream.finish_reason == "length"


def test_a_stream_cancelled_before_it_is_read_is_empty(session):
    stream = session.chat([user("Hi")], GREEDY)
    stream.cancel()
    assert list(stream) == []
    assert (stream.cancelled, stream.finish_reason, stream.token_ids) == (True, "cancelled", [])


LOST = "asked something else before this answer was read to its end"


def question(n, tokens=6):
    return [user(f"Question {n}?")], ChatOptions(temperature=0.0, max_new_tokens=tokens)


def answer(session, n):
    return "".join(session.chat(*question(n)))


def test_streams_that_are_read_in_turns_are_refused_and_the_last_one_is_right(session):
    expected = answer(session, 2)
    first, second = (iter(session.chat(*question(n))) for n in (1, 2))
    next(first)
    pieces = [next(second)]
    with pytest.raises(InputError, match=LOST):
        list(first)
    assert "".join([*pieces, *second]) == expected


@pytest.mark.parametrize(
    "use",
    [
        lambda session, prompt: session.reset(),
        lambda session, prompt: session.prefill(prompt),
        lambda session, prompt: session.decode(5),
        lambda session, prompt: answer(session, 3),
    ],
    ids=["reset", "prefill", "decode", "answer"],
)
def test_a_stream_that_lost_the_cache_is_refused(session, use):
    prompt = session.prepare([user("Another?")])
    stream = session.chat(*question(1))
    next(iter(stream))
    use(session, prompt)
    with pytest.raises(InputError, match=LOST):
        list(stream)
    expected = answer(session, 1)
    session.reset()
    assert answer(session, 1) == expected, "the refusal has harmed nothing"


def test_closed_and_failed_streams_leave_a_session_that_answers(session, monkeypatch):
    expected = answer(session, 1)
    stream = session.chat(*question(2))
    next(iter(stream))
    stream.pieces.close()
    assert answer(session, 1) == expected

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(type(session.model.decoder), "next_logits", fail)
        answer(session, 2)
    assert answer(session, 1) == expected


@pytest.mark.parametrize("turns", [["a" * 20_000_000], ["word " * 500_000, "b"] * 2])
def test_a_text_far_beyond_the_context_is_not_encoded(session, turns, monkeypatch):
    monkeypatch.setattr(Tokenizer, "encode_text", None)
    roles = ["user", "assistant"] * 2
    messages = [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]
    with pytest.raises(InputError, match=r"bytes of text, at least [\d,]+ tokens, and the context"):
        session.chat([*messages, {"role": "user", "content": "?"}][-3:])


def test_threads_get_right_answers_or_the_refusal(session):
    expected = {n: answer(session, n) for n in range(4)}

    def ask(n):
        try:
            return n, answer(session, n)
        except InputError as error:
            return n, str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, list(range(4)) * 3))
    assert all(said == expected[n] or LOST in said for n, said in found)
    assert any(said == expected[n] for n, said in found)


@pytest.mark.parametrize("limit", [0, -5])
def test_an_answer_of_no_tokens_is_refused(session, limit):
    with pytest.raises(InputError, match=f"max_new_tokens is {limit}; give 1 or more"):
        session.chat([user("Hi")], ChatOptions(max_new_tokens=limit))


def test_a_stop_token_ends_the_answer(session, monkeypatch):
    stop = session.manifest.prompt.stop_token_ids[0]
    decode = session._decode
    steps = []

    def stop_after_three(token):
        logits = decode(token)
        steps.append(token)
        if len(steps) == 3:
            logits = logits.copy()
            logits[stop] = logits.max() + 1
        return logits

    monkeypatch.setattr(session, "_decode", stop_after_three)
    stream = session.chat([user("Hi")], ChatOptions(temperature=0, repetition_penalty=1.0))
    list(stream)
    assert (stream.finish_reason, len(stream.token_ids)) == ("stop", 3)
    assert stop not in stream.token_ids


def test_seed_makes_sampling_repeatable(session):
    def sample(seed):
        stream = session.chat([user("Say something.")], ChatOptions(seed=seed, max_new_tokens=16))
        list(stream)
        return stream.token_ids

    assert sample(5) == sample(5)
    assert sample(5) != sample(6)


def test_published_sampling_defaults(session):
    answer = session._sampler(ChatOptions())
    assert (answer.temperature, answer.top_k, answer.top_p) == (0.7, 100, 0.8)
    assert answer.repetition_penalty == 1.03
    thinking = session._sampler(ChatOptions(prompt=PromptOptions(enable_thinking=True)))
    assert (thinking.temperature, thinking.top_k, thinking.top_p) == (0.7, 50, 1.0)
    assert thinking.repetition_penalty == 1.0
    assert session._sampler(GREEDY).temperature == 0


def test_thinking_answers_begin_with_the_opened_thought(session):
    options = ChatOptions(prompt=PromptOptions(enable_thinking=True), max_new_tokens=1, seed=0)
    assert "".join(session.chat([user("Why?")], options)).startswith("<think>\n")


def test_video_frames_are_packed_and_their_times_matter(session):
    frames = [gradient(64, 64, shift) for shift in (0, 40, 80)]

    def embeds(ids):
        prompt = PromptOptions(use_image_id=False, temporal_ids=[ids])
        options = ChatOptions(prompt=prompt, max_slice_nums=1)
        prepared = session.prepare([user(*frames, "Where?")], options)
        return np.stack(session.image_embeds(prepared))

    forward, backward = embeds([0, 10, 20]), embeds([20, 10, 0])
    assert forward.shape == (1, 64, 256)
    assert np.abs(forward - backward).max() > 1e-3


def test_a_picture_longer_than_the_graph_is_refused(session):
    with pytest.raises(InputError, match="the bundle takes 1088"):
        session.prepare([user(gradient(14, 2000), "Long?")])


def test_a_one_pixel_picture_works(session):
    assert session.prepare([user(gradient(1, 1), "Tiny?")]).tgt_sizes.tolist() == [[32, 32]]


def damage(bundle, tmp_path, edit):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy, copy_function=shutil.copyfile)  # files that can be written
    edit(copy)
    return copy


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


CASES = {
    "flipped weight": (
        lambda b: _flip(b / "decoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin"),
        "does not match its checksum",
    ),
    "flipped tokenizer": (lambda b: _flip(b / "tokenizer/tokenizer.json"), "checksum"),
    "missing file": (lambda b: (b / "embed_tokens.bin").unlink(), "lacks embed_tokens.bin"),
    "truncated file": (
        lambda b: (b / "embed_tokens.bin").write_bytes(b"123"),
        "the manifest says",
    ),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "is not a bundle"),
    "broken manifest": (lambda b: (b / "manifest.json").write_text("{"), "not valid JSON"),
    "leaves the folder": (
        lambda b: _replace(b, '"path": "embed_tokens.bin"', '"path": "../embed_tokens.bin"'),
        "leaves the bundle",
    ),
    "absolute path": (
        lambda b: _replace(b, '"path": "embed_tokens.bin"', '"path": "/etc/passwd"'),
        "leaves the bundle",
    ),
    "other version": (
        lambda b: _replace(b, '"schema_version": 3', '"schema_version": 99'),
        "schema version 99",
    ),
    "unknown field": (
        lambda b: _replace(b, '"schema_version": 3', '"schema_version": 3, "extra": 0'),
        "missing or unknown fields: extra",
    ),
    "wrong type": (lambda b: _replace(b, '"max_slice_nums": 9', '"max_slice_nums": "9"'), "int"),
}


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        ("decoding", "prefill_length", 0, "prefill_length in manifest.json is 0; it must be 1 to"),
        ("decoding", "context_length", 10**9, "context_length in manifest.json is 1000000000"),
        ("architecture", "rope_theta", 0.0, "rope_theta in manifest.json must be a number above 0"),
        ("architecture", "vocab_size", -1, "vocab_size in manifest.json is -1"),
        ("architecture", "num_layers", 0, "num_layers in manifest.json is 0"),
        ("preprocessing", "patch_size", 0, "patch_size in manifest.json is 0"),
        ("preprocessing", "scale_resolution", 0, "scale_resolution in manifest.json is 0"),
        ("preprocessing", "norm_mean", [], "norm_mean and norm_std in manifest.json must be three"),
        ("preprocessing", "norm_std", [1.0, 1.0, 0.0], "the latter above 0"),
        ("generation", "max_new_tokens", 0, "max_new_tokens in manifest.json is 0"),
    ],
)
def test_numbers_that_no_model_has_are_refused(make_bundle, tmp_path, part, name, value, said):
    def edit(bundle):
        path = bundle / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        del manifest["digest"]
        manifest[part][name] = value
        path.write_bytes(sealed_json(manifest))

    bundle = damage(make_bundle("none", "state", CONTEXT), tmp_path, edit)
    with pytest.raises(InputError) as caught:
        Session.load(bundle, FP32)
    assert said in str(caught.value)


def _replace(bundle, old, new):
    path = bundle / "manifest.json"
    text = path.read_text(encoding="utf-8")
    assert old in text
    value = json.loads(text.replace(old, new))
    del value["digest"]
    path.write_bytes(sealed_json(value))


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_bundle_is_refused_with_one_sentence(name, make_bundle, tmp_path):
    edit, text = CASES[name]
    bundle = damage(make_bundle("none", "state", CONTEXT), tmp_path, edit)
    with pytest.raises(InputError, match=text) as caught:
        Session.load(bundle, FP32)
    assert "\n" not in str(caught.value)


def test_a_link_that_leaves_the_bundle_is_refused(make_bundle, tmp_path):
    def link(bundle):
        outside = tmp_path / "outside.bin"
        (bundle / "embed_tokens.bin").rename(outside)
        (bundle / "embed_tokens.bin").symlink_to(outside)

    bundle = damage(make_bundle("none", "state", CONTEXT), tmp_path, link)
    with pytest.raises(InputError, match="leaves the bundle"):
        Session.load(bundle, FP32)


def snapshot(bundle, cache):
    """A bundle as the hub's client leaves it: links to files that are called by their digests."""
    repository = cache / "models--me--it"
    root, blobs = repository / "snapshots" / "abc" / "bundle", repository / "blobs"
    blobs.mkdir(parents=True)
    for path in (path for path in bundle.rglob("*") if path.is_file()):
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        link = root / path.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return root


@pytest.mark.parametrize("backend", ["coreml", "onnx"])
def test_a_bundle_in_the_hubs_cache_opens(backend, random_checkpoint, tmp_path):
    output = ["--output", str(tmp_path / "out"), "--no-cache", "--quiet"]
    flags = ["--checkpoint", str(random_checkpoint), "--quant", "int4-fast"]
    assert export_main([backend, *flags, *output]) == 0
    (bundle,) = (tmp_path / "out").iterdir()
    linked = snapshot(bundle, tmp_path / "hub")
    first, second = (Session.load(path, FP32) for path in (bundle, linked))
    message = user(gradient(30, 20), "What?")
    options = ChatOptions(temperature=0.0, max_new_tokens=4)
    answers = ["".join(session.chat([message], options)) for session in (first, second)]
    assert answers[0] == answers[1]


def test_a_link_to_the_blobs_of_another_repository_is_refused(make_bundle, tmp_path):
    linked = snapshot(make_bundle("none"), tmp_path / "hub")
    other = tmp_path / "hub" / "models--me--other" / "blobs"
    other.mkdir(parents=True)
    tokenizer = linked / "tokenizer" / "tokenizer.json"
    shutil.copyfile(tokenizer, other / "x")
    tokenizer.unlink()
    tokenizer.symlink_to(other / "x")
    with pytest.raises(InputError, match="leaves the bundle"):
        Session.load(linked, FP32)


def test_a_stream_that_has_not_computed_since_is_refused_too(session):
    """It has given the beginning of a thought only; another answer has filled the cache."""
    thinking = ChatOptions(prompt=PromptOptions(enable_thinking=True), max_new_tokens=3)
    stream = iter(session.chat([user("Why?")], thinking))
    next(stream)
    "".join(session.chat([user("word " * 20)], ChatOptions(temperature=0, max_new_tokens=CONTEXT)))
    with pytest.raises(InputError, match=LOST):
        list(stream)


def test_text_up_to_a_film_counts_and_later_text_does_not(session, monkeypatch):
    """So that its frames stay the same from question to question."""
    monkeypatch.setattr(media, "probe_video", lambda path: VideoInfo(3000, 10))
    black = gradient(40, 30)
    monkeypatch.setattr(
        media, "read_frames", lambda path, indices, background: (black for _ in indices)
    )
    decoding = replace(session.manifest.decoding, context_length=2048)
    monkeypatch.setattr(session, "manifest", replace(session.manifest, decoding=decoding))
    film = {"type": "video", "video": "film.mp4"}

    def frames(*messages):
        return session.prepare(messages).encoded.video_frames

    text = {"type": "text", "text": "word " * 100}
    question = {"role": "user", "content": [film, {"type": "text", "text": "What?"}]}
    assert frames({"role": "user", "content": [film, text]}) < frames(question)
    told = [{"role": "assistant", "content": "this"}, {"role": "user", "content": [text]}]
    assert frames(question, *told) == frames(question)
