"""The synthetic checkpoint: published layout, heavy-tailed weights, what the command refuses."""

import json
import shutil
import struct
from collections import namedtuple

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file

from benchmarks import synthesize
from benchmarks.published import CONFIG, PREPROCESSOR, config_values
from benchmarks.shards import assign_shards, tensor_bytes, write_shard
from benchmarks.synthesize import main, write_checkpoint
from benchmarks.vocabulary import build_tokenizer
from benchmarks.weights import HeavyTailed, draw_tensor
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.source import check_tensors
from export.host.chat_format import SPECIAL_TOKENS
from export.host.tokenizer import build_tokenizer_files
from export.models.preprocessor import load_preprocessing
from export.models.tensors import tensor_shapes
from export.releases import DEFAULT_RELEASE, load_config, parse_config
from export.releases.release import load_facts
from validation.reference.qwen import KeyValueCache, Qwen

QUIET = Console(quiet=True)
# Bytes and tensors of the published shards.
SHARDS = [(5286612176, 118), (5301855088, 153), (4546851120, 127), (2256571800, 451)]
SMALL = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 768,
    "vocab_size": 640,
    "bos_token_id": 600,
    "eos_token_id": 602,
    "vision_config": CONFIG["vision_config"]
    | {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    | {"intermediate_size": 272, "image_size": 140},
}


def small(layers):
    """The published configuration, `layers` deep and narrow."""
    return config_values(layers) | SMALL


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A narrow checkpoint of two layers."""
    folder = tmp_path_factory.mktemp("synthetic") / "checkpoint"
    write_checkpoint(small(2), folder, QUIET)
    return folder


@pytest.fixture
def narrow(monkeypatch):
    """The command writes the narrow model."""
    monkeypatch.setattr(synthesize, "config_values", small)


def published_shapes():
    return tensor_shapes(parse_config(CONFIG))


def test_shards_hold_what_the_published_index_says(shared):
    index = json.loads((shared / "upstream/model.safetensors.index.json").read_text("utf-8"))
    shards = assign_shards(published_shapes())
    assert {name: s for s, tensors in shards.items() for name in tensors} == index["weight_map"]
    assert sum(map(tensor_bytes, published_shapes().values())) == index["metadata"]["total_size"]


def test_files_have_the_published_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(HeavyTailed, "blocks", lambda self: [])  # headers and sparse files alone
    found = []
    for shapes in assign_shards(published_shapes()).values():
        path = tmp_path / "shard"
        write_shard(path, shapes, 1, lambda _: None)
        found.append((path.stat().st_size, len(shapes)))
        path.unlink()
    assert found == SHARDS


def test_configuration_is_the_published_one(shared):
    for name, values in (("config.json", CONFIG), ("preprocessor_config.json", PREPROCESSOR)):
        published = json.loads((shared / "upstream" / name).read_text("utf-8"))
        assert published.keys() - values.keys() <= {"_name_or_path", "auto_map"}
        assert values.items() <= published.items()


def test_export_accepts_every_file(checkpoint, tmp_path):
    model = load_config(checkpoint)
    check_tensors(Checkpoint(checkpoint), tensor_shapes(model), "it", "whole")
    assert load_preprocessing(checkpoint, model).scale_resolution == 448
    prompt = build_tokenizer_files(
        checkpoint, tmp_path, model.decoder.vocab_size, DEFAULT_RELEASE.chat
    )
    assert prompt.stop_token_ids == (602, 600)
    assert load_facts(checkpoint, DEFAULT_RELEASE).name != DEFAULT_RELEASE.facts.name


def test_safetensors_reads_the_weights_that_were_drawn(checkpoint):
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text("utf-8"))
    read = {}
    for shard in set(index["weight_map"].values()):
        read |= load_file(checkpoint / shard)
    shapes = tensor_shapes(parse_config(small(2)))
    assert read.keys() == index["weight_map"].keys() == shapes.keys()
    assert index["metadata"]["total_size"] == sum(values.nbytes for values in read.values())
    for name, shape in shapes.items():
        assert read[name].dtype == "bfloat16"
        assert read[name].shape == shape
        assert read[name].tobytes() == draw_tensor(name, shape).tobytes(), name


def test_header_is_aligned_sorted_and_without_gaps(checkpoint):
    (path,) = checkpoint.glob("*.safetensors")
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert list(entries) == sorted(entries)
    offsets = [entry["data_offsets"] for entry in entries.values()]
    assert [end for _, end in offsets[:-1]] == [begin for begin, _ in offsets[1:]]
    assert offsets[0][0] == 0 and offsets[-1][1] == len(data) - 8 - length


def test_bytes_do_not_depend_on_the_number_of_threads(tmp_path):
    shapes = {"a.weight": (3000, 700), "b.bias": (9,), "c.weight": (5, 3, 2, 2)}
    for threads in (1, 5):
        write_shard(tmp_path / str(threads), shapes, threads, lambda _: None)
    assert len(HeavyTailed("a.weight", (3000, 700)).blocks()) > 2
    assert (tmp_path / "1").read_bytes() == (tmp_path / "5").read_bytes()


@pytest.mark.parametrize("shape", [(40, 13), (40, 3, 5, 5), (40,), (40, 1024)])
def test_rows_are_the_same_drawn_alone(shape):
    whole = draw_tensor("some.weight", shape)
    part = HeavyTailed("some.weight", shape).rows(7, 19)
    assert part.tobytes() == whole[7:19].tobytes()


def test_no_block_of_the_published_model_is_large():
    tensors = [HeavyTailed(name, shape) for name, shape in published_shapes().items()]
    blocks = [(end - begin) * t.columns for t in tensors for begin, end in t.blocks()]
    assert max(blocks) <= 1 << 20
    assert sum(blocks) == 8_695_895_280


def test_cut_checkpoint_holds_the_first_layers_of_the_whole(checkpoint, tmp_path):
    write_checkpoint(small(1), tmp_path / "cut", QUIET)
    cut, whole = Checkpoint(tmp_path / "cut"), Checkpoint(checkpoint)
    lost = whole.tensors.keys() - cut.tensors.keys()
    assert {name.split(".")[3] for name in lost} == {"1"}
    assert cut.tensors.keys() < whole.tensors.keys()
    for name in cut.tensors:
        assert np.array_equal(cut.read(name), whole.read(name)), name


def test_values_follow_students_t():
    """At the closed form of the distribution function for four degrees of freedom."""
    weight = draw_tensor("some.weight", (4096, 512)).astype(np.float64)
    weight = np.delete(weight, weight.std(0).argmax(), axis=1)  # its one outlier channel
    values = np.sort(weight.reshape(-1))
    t = values / values.std() * np.sqrt(2)
    scaled = t / np.sqrt(1 + t**2 / 4)
    expected = 0.5 + 3 / 8 * scaled * (1 - scaled**2 / 12)
    empirical = (np.arange(t.size) + 0.5) / t.size
    assert np.abs(expected - empirical).max() < 0.002
    assert 20 < t.max() < 30  # a normal distribution would end at 7


@pytest.mark.parametrize("name", ["x.q_proj.weight", "x.down_proj.weight"])
def test_matrix_has_a_few_outlier_channels_and_keeps_the_variance(name):
    weight = draw_tensor(name, (4096, 2048)).astype(np.float32)
    channels = np.sort(weight.std(0) / np.median(weight.std(0)))
    assert np.all(channels[:-4] < 2)
    assert np.all((channels[-4:] > 9) & (channels[-4:] < 60))
    variance = float(np.square(weight, dtype=np.float64).sum(1).mean())
    assert variance == pytest.approx(1 if "q_proj" in name else 1 / 72, rel=0.15)


def test_rows_and_tensors_are_independent():
    values = np.concatenate([draw_tensor(f"{n}.weight", (64, 256)) for n in "ab"])
    signs = np.sign(values.astype(np.float32))
    alike = np.abs(signs @ signs.T / 256 - np.eye(128)).max()
    assert alike < 0.35  # 5.6 standard deviations


def test_gains_lie_near_one_and_biases_near_zero():
    gain = draw_tensor("x.layernorm.weight", (4096,)).astype(np.float32)
    bias = draw_tensor("x.bias", (4096,)).astype(np.float32)
    assert np.abs(gain - 1).max() < 0.4 and np.abs(bias).max() < 0.4
    assert gain.mean() == pytest.approx(1, abs=0.01) and bias.std() == pytest.approx(0.02, rel=0.1)


@torch.no_grad()
def test_activations_stay_within_float16_through_the_published_depth():
    config = parse_config(small(36)).decoder
    model = Qwen(config)
    state = {
        name.removeprefix("llm."): torch.from_numpy(draw_tensor(name, shape).astype(np.float32))
        for name, shape in tensor_shapes(parse_config(small(36))).items()
        if name.startswith("llm.")
    }
    model.load_state_dict(state)
    largest = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda _, given, out: largest.extend([given[0].abs().max(), out.abs().max()])
            )
    x = model.model.embed_tokens(torch.arange(64))
    x = model.run_layers(x, 0, KeyValueCache.empty(config, 64))
    logits = model.logits(x)
    assert 0.1 < x.std() < 100
    assert torch.isfinite(logits).all() and logits.std() > 0.1
    assert max(largest) < 65504 / 8


def test_tokenizer_of_the_published_size_has_the_published_ids():
    size, first = CONFIG["vocab_size"], CONFIG["bos_token_id"]
    tokenizer = build_tokenizer(size, first)
    ids = tokenizer.get_vocab()
    assert sorted(ids.values()) == list(range(size))
    assert ids["<|endoftext|>"] == first and ids["<|im_end|>"] == CONFIG["eos_token_id"]
    assert all(ids[token] >= first for token in SPECIAL_TOKENS.values())
    text = "two  words\n漢字 🙂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.decode([70000]) != ""


def test_command_writes_the_folder_and_prints_it(narrow, tmp_path, capsys):
    assert main(["full", str(tmp_path / "new" / "checkpoint"), "--layers", "1"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'checkpoint'}\n"
    assert load_config(tmp_path / "new" / "checkpoint").decoder.num_layers == 1
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("layers", ["0", "-1", "37"])
def test_impossible_depth_is_refused(layers, tmp_path, capsys):
    assert main(["full", str(tmp_path / "checkpoint"), "--layers", layers]) == 2
    message = f"error: --layers {layers} is not possible; give 1 to 36.\n"
    assert capsys.readouterr().err == message
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_refused_and_kept(narrow, tmp_path, capsys):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "mine.txt").write_text("kept")
    assert main(["full", str(tmp_path / "checkpoint")]) == 2
    assert "exists already; remove it or give another folder." in capsys.readouterr().err
    assert (tmp_path / "checkpoint" / "mine.txt").read_text() == "kept"


def test_full_disk_is_refused_before_anything_is_written(tmp_path, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 17_391_790_560))
    assert main(["full", str(tmp_path / "checkpoint")]) == 2
    assert "needs 17,441,790,560 bytes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "code"), [(OSError("disk broke"), 2), (KeyboardInterrupt, 130)]
)
def test_interrupted_command_leaves_nothing(narrow, failure, code, tmp_path, monkeypatch):
    def fail(self, begin, end):
        raise failure

    monkeypatch.setattr(HeavyTailed, "rows", fail)
    assert main(["full", str(tmp_path / "checkpoint"), "--layers", "1"]) == code
    assert list(tmp_path.iterdir()) == []
