"""The interface that VLMEvalKit calls, and the options of both harnesses for pictures."""

import inspect
import json
from dataclasses import replace

import pytest

from mobile_runtime.errors import InputError
from mobile_runtime.session import GREEDY, Session
from tests.golden.synthetic import golden_picture
from validation.harnesses.answering import KeptAnswers, answer_of, chat_options, question_digest
from validation.harnesses.vlmevalkit import BundleVLM

# Of the kit's BaseModel and of its inference.py: what is called, with what names.
CALLED = {
    "generate": ["message", "dataset"],
    "use_custom_prompt": ["dataset"],
    "set_dump_image": ["dump_image_func"],
    "dump_image": ["line", "dataset"],
}


@pytest.fixture(scope="module")
def bundle(make_onnx_bundle):
    return make_onnx_bundle()


@pytest.fixture(scope="module")
def model(bundle):
    return BundleVLM(str(bundle), max_new_tokens=6, max_slice_nums=1)


def test_the_kit_finds_what_it_calls(model):
    for name, names in CALLED.items():
        assert list(inspect.signature(getattr(model, name)).parameters) == names
    assert not model.use_custom_prompt("OCRBench")
    model.set_dump_image(lambda line: [f"{line}.png"])
    assert model.dump_image("a", "OCRBench") == ["a.png"]


def test_a_message_is_answered_as_the_session_answers_it(model, bundle, tmp_path):
    places = []
    for n in range(2):
        places.append(str(tmp_path / f"{n}.png"))
        golden_picture(90 + n, 60, n).save(places[-1])
    message = [
        {"type": "text", "value": "First"},
        {"type": "image", "value": places[0]},
        {"type": "image", "value": places[1]},
        {"type": "text", "value": "Which?"},
    ]
    content = [
        {"type": "text", "text": "First"},
        *({"type": "image", "image": place} for place in places),
        {"type": "text", "text": "Which?"},
    ]
    options = replace(GREEDY, max_new_tokens=6, max_slice_nums=1)
    session = Session.load(bundle)
    wanted = "".join(session.chat([{"role": "user", "content": content}], options))
    assert model.generate(message, dataset="OCRBench") == wanted.strip()
    assert model.generate("Which?") == model.generate([{"type": "text", "value": "Which?"}])
    with pytest.raises(InputError, match="a part of type audio"):
        model.generate([{"type": "audio", "value": "a.wav"}])


def test_options_are_greedy_unless_a_request_samples():
    default = replace(GREEDY, max_new_tokens=128)
    given = {"temperature": 0, "top_p": None, "num_beams": 1, "do_sample": False, "until": "\n"}
    assert chat_options(given, default) == (default, ("\n",))
    assert chat_options({"do_sample": True, "temperature": 0}, default) == (default, ())
    sampled, _ = chat_options({"do_sample": True, "top_k": 5, "max_new_tokens": 3}, default)
    assert (sampled.temperature, sampled.top_k, sampled.seed) == (1.0, 5, 0)
    assert sampled.max_new_tokens == 3
    for wrong in ({"num_beams": 4}, {"guidance_scale": 2}):
        with pytest.raises(InputError, match=f"a task asks for {next(iter(wrong))}"):
            chat_options(wrong, default)


def test_an_answer_ends_before_the_stop(bundle):
    session = Session.load(bundle)
    messages = [{"role": "user", "content": "Say it."}]
    options = replace(GREEDY, max_new_tokens=8)
    whole = answer_of(session, messages, options)
    assert len(whole) > 3
    assert answer_of(session, messages, options, ["never", whole[2]]) == (
        whole.split(whole[2])[0].strip()
    )


def test_kept_answers_are_of_one_run(tmp_path):
    path = tmp_path / "kept.jsonl"
    KeptAnswers(path, {"bundle": 1}).get("a", lambda: "yes")
    assert [json.loads(line) for line in path.read_text().splitlines()][1] == ["a", "yes"]
    assert KeptAnswers(path, {"bundle": 1}).get("a", lambda: "no") == "yes"
    with pytest.raises(InputError, match="answers of another run"):
        KeptAnswers(path, {"bundle": 2})
    with pytest.raises(InputError, match="cannot be written"):
        KeptAnswers(tmp_path, {})


def test_a_digest_covers_pixels_texts_and_options():
    def asked(picture, text):
        parts = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        return [{"role": "user", "content": parts}]

    picture, other = golden_picture(20, 20, 1), golden_picture(20, 20, 2)
    digests = {
        question_digest(asked(picture, "a"), {}),
        question_digest(asked(other, "a"), {}),
        question_digest(asked(picture, "b"), {}),
        question_digest(asked(picture, "a"), {"max_new_tokens": 2}),
    }
    assert len(digests) == 4
    assert question_digest(asked(picture.copy(), "a"), {}) in digests
