"""A bundle under real transformers: its `generate` gives the session's tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", reason="not installed: pip install -e '.[transformers]'")

from transformers import BatchFeature, GenerationConfig, StoppingCriteria, pipeline
from transformers.generation.streamers import BaseStreamer

from export.cli import main as export
from mobile_runtime import GREEDY, EngineOptions, InputError, Session
from mobile_runtime.transformers_api import MiniCPMVForMobile, MiniCPMVProcessor
from tests.docs.pages import blocks
from tests.golden.synthetic import golden_picture
from tests.paths import ROOT
from validation.reference.reference import Reference
from validation.sources import open_checkpoint

EXACT = EngineOptions(precision="fp32")
NEW = 6


@pytest.fixture(scope="module", params=["coreml", "onnx"])
def bundle(request, make_bundle, make_onnx_bundle):
    return make_bundle("none") if request.param == "coreml" else make_onnx_bundle(quant="none")


@pytest.fixture(scope="module")
def model(bundle):
    return MiniCPMVForMobile.from_pretrained(bundle, EXACT)


@pytest.fixture(scope="module")
def processor(bundle):
    return MiniCPMVProcessor.from_pretrained(str(bundle))


def ask(*pictures, text="What?"):
    parts = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


MESSAGES = ask(golden_picture(200, 100, 1))


def features_of(processor, messages=MESSAGES):
    return processor.apply_chat_template(messages, tokenize=True, max_slice_nums=1)


def new_tokens(found, features):
    return found[0, features["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def by_session(bundle):
    """by_session(messages) -> the greedy tokens of a session of its own."""
    session = Session.load(bundle, EXACT)

    def answer(messages):
        stream = session.chat(messages, replace(GREEDY, max_new_tokens=NEW, max_slice_nums=1))
        list(stream)
        return stream.token_ids

    return answer


def test_tensors_are_the_prompt_of_the_session(model, processor):
    prompt = model.session.prepare(MESSAGES)
    found = processor.apply_chat_template(MESSAGES, tokenize=True)
    assert found["input_ids"][0].tolist() == prompt.encoded.input_ids.tolist()
    assert found["image_bound"][0].tolist() == prompt.encoded.image_bound.tolist()
    views = [view for group in prompt.groups for view in group]
    assert found["tgt_sizes"][0].tolist() == [list(view.tgt_size) for view in views]
    for strip, view in zip(found["pixel_values"][0], views, strict=True):
        assert np.array_equal(strip, view.strip)
    rebuilt = model._prompt(
        prompt.encoded.input_ids,
        *(found[k][0] for k in ("pixel_values", "tgt_sizes", "image_bound", "temporal_ids")),
    )
    assert rebuilt.keys == prompt.keys  # pixels to the last bit
    assert processor.apply_chat_template(MESSAGES) == prompt.encoded.text


def test_greedy_tokens_are_the_session_s(model, processor, by_session):
    for messages in (MESSAGES, ask(text="Two pictures fewer?"), MESSAGES):
        features = features_of(processor, messages)
        found = model.generate(**features, do_sample=False, max_new_tokens=NEW)
        assert new_tokens(found, features) == by_session(messages)


def test_logits_of_every_position_are_pytorch_s(model, processor, random_checkpoint):
    features = features_of(processor)
    source = open_checkpoint(str(random_checkpoint))
    reference = Reference(source.config, source.checkpoint)
    prompt = model.session.prepare(MESSAGES)
    (embeds,) = reference.image_embeds([prompt])
    text = reference.start(reference.splice(prompt, embeds))
    (ended,) = reference.run_layers([text], range(source.config.decoder.num_layers))
    wanted = reference.logits(ended.hidden)
    found = model(**features).logits[0].numpy()
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 2e-2
    assert (found.argmax(-1) == wanted.argmax(-1)).mean() > 0.95


def test_a_generation_config_samples(model, processor):
    """Against the same draws made by hand from the logits that transformers kept."""
    features = features_of(processor)
    config = GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_k=0,
        top_p=1.0,
        max_new_tokens=NEW,
        output_logits=True,
        return_dict_in_generate=True,
    )
    torch.manual_seed(7)
    found = model.generate(**features, generation_config=config)
    torch.manual_seed(7)
    drawn = [int(torch.multinomial((row[0] / 0.8).softmax(-1), 1)) for row in found.logits]
    assert new_tokens(found.sequences, features) == drawn
    assert drawn != [int(row[0].argmax()) for row in found.logits]


class Kept(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


class AfterTwo(StoppingCriteria):
    def __init__(self, begin):
        self.limit = begin + 2

    def __call__(self, input_ids, scores, **_):
        return torch.tensor([input_ids.shape[1] >= self.limit])


def test_streamers_and_stopping_criteria_work(model, processor):
    features, streamer = features_of(processor), Kept()
    begin = features["input_ids"].shape[1]
    found = model.generate(
        **features, do_sample=False, streamer=streamer, stopping_criteria=[AfterTwo(begin)]
    )
    assert found.shape[1] == begin + 2
    assert streamer.ended and streamer.tokens == found[0].tolist()


def test_an_answer_ends_where_the_context_is_full(model, processor):
    room = model.session.manifest.decoding.context_length
    features = features_of(processor, ask(text="a" * (room - 30)))
    found = model.generate(**features, do_sample=False, min_new_tokens=room)
    assert found.shape[1] == room


def test_the_pipeline_answers_chats_and_pictures(model, processor, by_session, tmp_path):
    picture = tmp_path / "a.png"
    golden_picture(200, 100, 1).save(picture)
    wanted = processor.decode(by_session(MESSAGES), skip_special_tokens=True)
    asked = pipeline("image-text-to-text", model=model, processor=processor)
    how = {"do_sample": False, "max_new_tokens": NEW}
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "path": str(picture)}, {"type": "text", "text": "What?"}],
        }
    ]
    (found,) = asked(text=messages, return_full_text=False, generate_kwargs=how, max_slice_nums=1)
    assert found["generated_text"] == wanted
    (plain,) = asked(
        images=Image.open(picture),
        text="What?",
        return_full_text=False,
        generate_kwargs=how,
        max_slice_nums=1,
    )
    assert plain["generated_text"] == wanted


def test_the_program_of_the_page_answers(tmp_path, capsys, monkeypatch):
    assert export(["onnx", "--quant", "int4-fast", "--output", str(tmp_path), "--quiet"]) == 0
    (folder,) = tmp_path.iterdir()
    page = ROOT / "docs/transformers.md"
    (block,) = (b for b in blocks(page) if b.reason == "needs transformers")
    assert "out/minicpmv-pocket-onnx-int4" in block.body
    monkeypatch.chdir(ROOT)
    capsys.readouterr()
    exec(block.body.replace("out/minicpmv-pocket-onnx-int4", str(folder)), {})
    one, other = capsys.readouterr().out.splitlines()
    assert one == "MUSEUM" and "'generated_text': 'MUSEUM'" in other


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, p, f: m.generate(**f, num_beams=2, max_new_tokens=2), "2 prompts or beams"),
        (lambda m, p, f: m(f["input_ids"].repeat(2, 1)), "one prompt at a time"),
        (lambda m, p, f: m(torch.zeros(1, 10**4, dtype=torch.long)), "10000 tokens is given"),
        (lambda m, p, f: p(text=["a", "b"]), "2 texts are given"),
        (lambda m, p, f: p.apply_chat_template(MESSAGES, tools=[{}]), "nor calls tools"),
        (
            lambda m, p, f: p.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}]}]
            ),
            'without "image"',
        ),
    ],
)
def test_what_a_bundle_does_not_do_is_refused(model, processor, call, said):
    features = features_of(processor)
    assert isinstance(features, BatchFeature)
    with pytest.raises(InputError, match=said):
        call(model, processor, features)
