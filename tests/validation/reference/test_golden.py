"""The PyTorch reference computes what the published code computes, in fp32."""

import json

import numpy as np
import pytest
import torch

from export.host.tokenizer import build_tokenizer_files
from export.releases import DEFAULT_RELEASE
from mobile_runtime.bundle import Preprocessing
from mobile_runtime.chat.conversation import ChatFormat, prepare_prompt
from mobile_runtime.chat.prompt import PromptOptions
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.model.positions import position_ids
from mobile_runtime.pictures.preprocess import preprocess_image
from tests.golden.synthetic import SyntheticWeights, golden_picture
from tests.paths import GOLDEN
from validation.reference.continuation import continue_texts
from validation.reference.minicpmv import build_empty, load_part
from validation.reference.reference import Reference

TOLERANCE = 2e-4
PROMPTS = json.loads((GOLDEN / "prompts.json").read_text(encoding="utf-8"))
HALF = (0.5, 0.5, 0.5)
PUBLISHED = Preprocessing(448, 14, 9, True, True, HALF, HALF, 64, 70, 1088)


@pytest.fixture(scope="module")
def reference():
    weights = SyntheticWeights()
    return Reference(weights.config, weights)


@pytest.mark.parametrize(("j", "h", "w"), [(0, 32, 32), (1, 25, 41), (2, 18, 55)])
def test_vision_tower_equals_the_published_one(j, h, w):
    arrays = np.load(GOLDEN / "tower.npz")
    weights = SyntheticWeights()
    tower = load_part(build_empty(weights.config), "vpm", weights)
    strip = np.random.RandomState(100 + j).uniform(-1, 1, (3, 14, 14 * h * w)).astype(np.float32)
    patches = strip.reshape(3, 14, h * w, 14).transpose(2, 0, 1, 3).reshape(1, h * w, 588)
    ids = torch.from_numpy(position_ids(h, w).astype(np.int64))[None]
    with torch.inference_mode():
        out = tower(torch.from_numpy(patches), ids, torch.ones(1, h * w, dtype=torch.bool))
    rows = out[0].numpy()
    expected = arrays[f"tower.{h}x{w}.rows0_8_and_last"]
    assert np.abs(rows[[0, 1, 2, 3, 4, 5, 6, 7, -1]] - expected).max() <= TOLERANCE
    norms = arrays[f"tower.{h}x{w}.row_norms"]
    assert np.abs(np.linalg.norm(rows, axis=1) - norms).max() <= TOLERANCE


def test_six_frames_in_one_group_equal_the_published_embeddings(reference):
    pictures = [golden_picture(320, 180, k) for k in range(6)]
    views = [preprocess_image(picture, PUBLISHED, 1)[0] for picture in pictures]
    features = [reference.encode_view(view) for view in views]
    embeds = reference.resample(features, [view.tgt_size for view in views], range(6))
    expected = np.load(GOLDEN / "prompt6_vision.npz")["vision"][0]
    assert np.abs(embeds - expected).max() <= TOLERANCE


def test_text_prompt_gives_the_published_logits_and_tokens(reference):
    expected = np.load(GOLDEN / "prompt7_logits.npz")
    ids = np.array(PROMPTS[7]["input_ids"])
    _check_logits(reference, reference.embed(ids), expected, expected["greedy_12"].tolist())


def _check_logits(reference, embeddings, expected, greedy):
    layers = range(reference.config.decoder.num_layers)
    (ended,) = reference.run_layers([reference.start(embeddings)], layers)
    logits = reference.logits(ended.hidden)
    best = logits[-1][expected["top20_ids"]]
    assert np.abs(best - expected["top20_logits"]).max() <= TOLERANCE
    assert np.abs(logits[-1][::997] - expected["last_logits_every_997"]).max() <= TOLERANCE
    assert np.array_equal(logits.argmax(-1), expected["argmax"])
    sums = torch.logsumexp(torch.from_numpy(logits), -1).numpy()
    assert np.abs(sums - expected["logsumexp"]).max() <= TOLERANCE
    (found,) = continue_texts(reference, [embeddings], [len(greedy)])
    assert found.tokens == greedy
    assert np.abs(found.logits - logits[-1]).max() <= TOLERANCE


@pytest.fixture(scope="module")
def chat_format(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    prompt = build_tokenizer_files(shared / "upstream", folder, 151748, DEFAULT_RELEASE.chat)
    return ChatFormat(Tokenizer.load(folder / "tokenizer.json"), prompt, PUBLISHED)


@pytest.fixture(scope="module")
def arrays(shared):
    return np.load(shared / "golden/arrays.npz")


@pytest.mark.parametrize("n", range(8))
def test_every_golden_prompt_from_its_messages(n, reference, chat_format, arrays, shared):
    entry = json.loads((shared / "golden/prompts.json").read_text(encoding="utf-8"))[n]
    options = PromptOptions(
        enable_thinking=entry.get("enable_thinking", False),
        use_image_id=entry.get("use_image_id"),
        temporal_ids=entry.get("temporal_ids"),
    )
    slices = entry.get("max_slice_nums")
    prompt = prepare_prompt(messages_of(entry), chat_format, options, slices)
    assert prompt.encoded.input_ids.tolist() == entry["input_ids"]
    assert prompt.encoded.image_bound.tolist() == entry["image_bound"]
    assert prompt.tgt_sizes.tolist() == entry["tgt_sizes"]
    used = [list(group.temporal_ids) for group in prompt.encoded.groups]
    assert used == entry["temporal_ids_used"]
    (embeds,) = reference.image_embeds([prompt])
    if embeds:
        assert np.abs(np.stack(embeds) - arrays[f"prompt{n}.vision"]).max() <= TOLERANCE
    prefix = f"prompt{n}."
    expected = {k.removeprefix(prefix): arrays[k] for k in arrays.files if k.startswith(prefix)}
    _check_logits(reference, reference.splice(prompt, embeds), expected, entry["greedy_12"])


def messages_of(entry):
    """The messages of a golden prompt, its pictures drawn."""
    messages = [
        {"role": message["role"], "content": [_part(part) for part in message["content"]]}
        for message in entry["messages"]
    ]
    if "system_prompt" in entry:
        messages.insert(0, {"role": "system", "content": entry["system_prompt"]})
    return messages


def _part(part):
    if isinstance(part, dict):
        return {"type": "image", "image": golden_picture(*part["picture"])}
    return {"type": "text", "text": part}
