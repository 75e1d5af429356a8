"""One export: what it writes, what it leaves behind when it fails, what it refuses."""

import hashlib
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import pipeline
from export.backends import BACKENDS
from export.build import part_cache as cache
from export.build import parts
from export.build.progress import Progress
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.source import content_sha256
from export.config import ExportConfig
from export.host import tables
from export.models.tensors import EMBED_TOKENS
from export.pipeline import export_bundle
from export.quant.affine import quantize_affine
from mobile_runtime.bundle import read_manifest, verify_files
from mobile_runtime.errors import InputError

BUNDLE = "minicpmv-4.5-coreml-int4-fast"


@pytest.fixture
def config(random_checkpoint, tmp_path):
    """A small export of the random checkpoint into a folder that exists."""
    output = tmp_path / "out"
    output.mkdir()
    return ExportConfig(
        checkpoint=str(random_checkpoint),
        quant="int4-fast",
        output=output,
        context_length=64,
        prefill_length=4,
        no_cache=True,
    )


def export(config):
    return export_bundle(config, BACKENDS["coreml"], Progress(quiet=True))


def tree(folder):
    """Path -> SHA-256 of everything below a folder, hidden files included."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_manifest_lists_every_file_with_its_hash(make_bundle):
    bundle = make_bundle()
    manifest = read_manifest(bundle)
    found = tree(bundle)
    del found["manifest.json"]
    assert {entry.path: entry.sha256 for entry in manifest.files} == found
    sizes = {entry.path: entry.size for entry in manifest.files}
    assert sizes == {name: (bundle / name).stat().st_size for name in found}
    verify_files(bundle, manifest)
    assert {"README.md", "tokenizer/tokenizer.json"} < found.keys()


def test_manifest_names_the_checkpoint_and_its_digest(make_bundle, random_checkpoint):
    source = read_manifest(make_bundle()).source
    assert source.name == random_checkpoint.name
    assert source.sha256 == content_sha256(Checkpoint(random_checkpoint))
    assert "MiniCPM Model License" in source.license


def test_manifest_has_the_models_sizes(make_bundle, tiny):
    manifest, model = read_manifest(make_bundle()), tiny().model
    architecture = manifest.architecture
    assert architecture.hidden_size == model.decoder.hidden_size
    assert architecture.head_dim == 64
    assert (architecture.num_attention_heads, architecture.num_key_value_heads) == (4, 2)
    assert architecture.resampler_heads == 2
    assert manifest.decoding.context_length == 512
    assert manifest.recipe == tiny().plan.recipe.as_json()


def read_table(bundle, file):
    return np.fromfile(bundle / file.path, file.dtype).reshape(file.shape)


def test_embedding_table_times_scales_is_the_checkpoints(make_bundle, tiny):
    bundle, checkpoint = make_bundle(), tiny().checkpoint
    tables = read_manifest(bundle).embed_tokens
    values = checkpoint.read(EMBED_TOKENS)
    table, scales = read_table(bundle, tables.table), read_table(bundle, tables.scales)
    assert table.dtype == np.int8
    expected = quantize_affine(values, bits=8, name="table").dequantize()
    np.testing.assert_array_equal(table * scales[:, None].astype(np.float32), expected)
    error = np.abs(expected - values.astype(np.float32))
    assert (error <= np.abs(values.astype(np.float32)).max(1, keepdims=True) / 250).all()


@pytest.mark.parametrize("block", [7, 100, 8192])
def test_embedding_table_does_not_depend_on_the_block_size(config, make_bundle, monkeypatch, block):
    monkeypatch.setattr(tables, "_EMBEDDING_BLOCK", block)
    bundle = export(config)
    for name in ("embed_tokens.bin", "embed_tokens_scales.bin"):
        assert (bundle / name).read_bytes() == (make_bundle() / name).read_bytes()


def test_tables_without_quantization_are_the_checkpoints_in_float16(make_bundle, tiny):
    bundle, checkpoint = make_bundle("none"), tiny().checkpoint
    manifest = read_manifest(bundle)
    assert manifest.embed_tokens.scales is None
    assert not (bundle / "embed_tokens_scales.bin").exists()
    pairs = [
        (manifest.embed_tokens.table, EMBED_TOKENS),
        (manifest.position_embeddings, "vpm.embeddings.position_embedding.weight"),
    ]
    for file, name in pairs:
        expected = checkpoint.read(name).astype(np.float16)
        np.testing.assert_array_equal(read_table(bundle, file), expected)


def test_hosts_folded_queries_are_those_of_the_graph(make_bundle, tiny):
    from export.graphs.parameters import fold_key_query

    bundle, model = make_bundle(), tiny()
    table = read_table(bundle, read_manifest(bundle).resampler_key_query)
    expected = fold_key_query(model.checkpoint, model.model.resampler_heads).astype(np.float16)
    np.testing.assert_array_equal(table, expected)
    blob = bundle / "resampler.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    assert table.tobytes() in blob.read_bytes()


def test_cache_as_input_and_output(make_bundle):
    manifest = read_manifest(make_bundle("int4-fast", "io"))
    assert manifest.decoding.kv_cache == "io"
    (graph,) = manifest.graphs_of("decoder")
    assert graph.states == ()
    inputs = {spec.name: spec.shape for spec in graph.function("decode").inputs}
    assert inputs["key_value_cache"] == (4, 2, 512, 64)
    assert inputs["attention_mask"] == (1, 1, 1, 513)


def test_prefill_in_the_io_form_gives_what_the_state_form_gives(make_bundle):
    """From an empty cache, both write the same rows and the same hidden states."""
    from mobile_runtime.engines.mil import MilEngine

    random = np.random.default_rng(0)
    length, context = 64, 512
    inputs = {
        "hidden_states": random.standard_normal((1, 256, 1, length), dtype=np.float32),
        "cos": np.ones((1, 1, 64, length), np.float32),
        "sin": np.zeros((1, 1, 64, length), np.float32),
    }
    causal = np.triu(np.full((length, length), -1e4, np.float32), 1)
    hidden = np.full((length, context), -1e4, np.float32)
    state_mask = np.concatenate([causal, hidden[:, length:]], axis=1)[None, None]
    io_mask = np.concatenate([hidden, causal], axis=1)[None, None]
    engine = MilEngine(make_bundle() / "decoder.mlpackage", precision="fp32")
    state = engine.new_state()
    position = {"attention_mask": state_mask, "position": np.zeros(1, np.int32)}
    first = engine.run(inputs | position, function="prefill", state=state)
    other = MilEngine(make_bundle("int4-fast", "io") / "decoder.mlpackage", precision="fp32")
    cache = {
        "attention_mask": io_mask,
        "key_value_cache": np.zeros((4, 2, context, 64), np.float32),
    }
    second = other.run(inputs | cache, function="prefill")
    names = "output_hidden_states", "new_key_value_rows"
    np.testing.assert_allclose(first[names[0]], second[names[0]], rtol=1e-4, atol=1e-4)
    rows = state["key_value_cache"][:, :, :length]
    np.testing.assert_allclose(rows, second[names[1]], rtol=1e-4, atol=1e-4)
    assert not state["key_value_cache"][:, :, length:].any()


STEPS = [
    (pipeline, "build_tokenizer_files"),
    (pipeline, "place"),
    (pipeline, "_manifest"),
    (pipeline, "write_card"),
    (pipeline, "list_files"),
    (pipeline, "write_manifest"),
    (parts, "write_tables"),
    (parts, "store"),
    (tables, "_write_table"),
    (cache, "list_files"),
]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError, InputError])
@pytest.mark.parametrize(("module", "step"), STEPS)
def test_failed_export_leaves_nothing_behind(config, monkeypatch, module, step, error):
    def fail(*arguments, **named):
        raise error("injected")

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(error, match="injected"):
        export(config)
    assert list(config.output.iterdir()) == []


def test_export_that_fails_in_its_last_package_leaves_nothing_behind(config, monkeypatch):
    convert = BACKENDS["coreml"].convert

    def fail_at_the_head(graph, specs, weights, path):
        if graph.role == "lm_head":
            raise RuntimeError("injected")
        return convert(graph, specs, weights, path)

    monkeypatch.setattr(BACKENDS["coreml"], "convert", fail_at_the_head)
    with pytest.raises(RuntimeError, match="injected"):
        export(config)
    assert list(config.output.iterdir()) == []


@pytest.fixture
def existing(config):
    """A folder in the bundle's place, with a file of its own."""
    folder = config.output / BUNDLE
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    return folder


def test_existing_output_is_left_alone(config, existing):
    with pytest.raises(InputError, match=r"exists already; .* --overwrite"):
        export(config)
    assert tree(config.output) == {f"{BUNDLE}/mine.txt": hashlib.sha256(b"mine").hexdigest()}


def test_overwrite_replaces_all_of_it(config, existing):
    bundle = export(replace(config, overwrite=True))
    assert bundle == existing
    assert not (existing / "mine.txt").exists()
    verify_files(bundle, read_manifest(bundle))
    assert [path.name for path in config.output.iterdir()] == [BUNDLE]


@pytest.mark.parametrize(("module", "step"), STEPS)
def test_failed_overwrite_keeps_the_old_bundle(config, existing, monkeypatch, module, step):
    def fail(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(KeyboardInterrupt):
        export(replace(config, overwrite=True))
    assert tree(config.output) == {f"{BUNDLE}/mine.txt": hashlib.sha256(b"mine").hexdigest()}


def test_overwrite_whose_last_step_fails_keeps_the_old_bundle(config, existing, monkeypatch):
    rename = Path.rename

    def fail_for_the_new_one(self, target):
        if self.name.endswith(".partial") and Path(target).name == BUNDLE:
            raise OSError("injected")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="injected"):
        export(replace(config, overwrite=True))
    assert tree(config.output) == {f"{BUNDLE}/mine.txt": hashlib.sha256(b"mine").hexdigest()}


def test_overwrite_works_after_one_that_was_interrupted_while_it_removed_the_old(config, existing):
    left = existing.with_name(f".{BUNDLE}.replaced")
    left.mkdir()
    (left / "file").write_text("old")
    bundle = export(replace(config, overwrite=True))
    verify_files(bundle, read_manifest(bundle))


def test_leftovers_of_a_killed_export_are_removed(config):
    left = config.output / f".{BUNDLE}.partial"
    left.mkdir()
    (left / "junk").write_text("junk")
    bundle = export(config)
    assert [path.name for path in config.output.iterdir()] == [BUNDLE]
    assert not (bundle / "junk").exists()


def test_plan_of_a_checkpoint_writes_nothing(config, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: pytest.fail("asked for space"))
    for output in (config.output, config.output / "absent"):
        export(replace(config, plan=True, output=output))
        assert list(config.output.iterdir()) == []


def test_plan_does_not_mind_an_existing_bundle(config, existing):
    export(replace(config, plan=True))
    assert list(existing.iterdir()) == [existing / "mine.txt"]


def test_plan_of_the_pocket_model_writes_nothing(config):
    output = config.output / "absent"
    export(replace(config, checkpoint=None, plan=True, output=output))
    assert not output.exists()


Usage = namedtuple("Usage", "total used free")


def test_full_disk_is_refused_before_anything_is_written(config, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 12_345))
    with pytest.raises(InputError, match=r"needs [\d,]+ bytes, .* has 12,345 free"):
        export(config)
    assert list(config.output.iterdir()) == []


def test_an_unknown_recipe_is_refused_before_a_download(config, monkeypatch):
    monkeypatch.setattr(pipeline, "locate_checkpoint", None)
    with pytest.raises(InputError, match="no recipe 'int5'; there are none, int8, int4"):
        export(replace(config, quant="int5"))


def test_a_calibration_needs_space_in_the_cache(config, tmp_path, monkeypatch):
    config = replace(config, quant="int4", cache=tmp_path / "cache", no_cache=False)
    plain = replace(config, quant="int4-fast", output=tmp_path / "fast")
    bundle = export(plain)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, size + 200_000_000))
    with pytest.raises(InputError, match=rf"but {config.cache} has [\d,]+ free"):
        export(config)
    assert list(config.output.iterdir()) == []


def test_space_for_the_bundle_is_enough(config, monkeypatch, make_bundle):
    size = sum(path.stat().st_size for path in make_bundle().rglob("*") if path.is_file())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, size + 200_000_000))
    assert export(config).is_dir()


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        ("llm.model.layers.1.mlp.up_proj.weight", "llm.model.layers.1.mlp.up_proj.weight"),
        ("llm.model.layers.0.input_layernorm.weight", "llm.model.layers.0.input_layernorm.weight"),
        ("vpm.encoder.layers.0.mlp.fc2.bias", "vpm.encoder.layers.0.mlp.fc2.bias"),
        ("vpm.embeddings.position_embedding.weight", "position_embedding.weight"),
        ("llm.model.embed_tokens.weight", "llm.model.embed_tokens.weight"),
        ("llm.lm_head.weight", "llm.lm_head.weight"),
        ("resampler.query", "resampler.query"),
        ("resampler.attn.in_proj_weight", "resampler.attn.in_proj_weight"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tensor_with_a_value_that_is_no_number_is_named(
    config, save_checkpoint, tensor, named, value
):
    def spoil(tensors):
        tensors[tensor].reshape(-1)[-1] = value

    folder = save_checkpoint(spoil)
    with pytest.raises(InputError) as caught:
        export(replace(config, checkpoint=str(folder)))
    assert named in str(caught.value)
    assert ("NaN" if np.isnan(value) else "infinity") in str(caught.value) or "query" in tensor
    assert list(config.output.iterdir()) == []


def test_checkpoint_that_lacks_a_tensor_is_refused(config, save_checkpoint):
    folder = save_checkpoint(lambda tensors: tensors.pop("resampler.ln_kv.bias"))
    with pytest.raises(InputError, match=r"missing: resampler\.ln_kv\.bias"):
        export(replace(config, checkpoint=str(folder)))
    assert list(config.output.iterdir()) == []


def test_missing_output_folder_is_made(config):
    bundle = export(replace(config, output=config.output / "a" / "b"))
    assert bundle == config.output / "a" / "b" / BUNDLE
    verify_files(bundle, read_manifest(bundle))


def test_progress_counts_every_parameter_once(config, monkeypatch):
    counted = []
    monkeypatch.setattr(Progress, "advance", lambda self, n: counted.append(n))
    manifest = read_manifest(export(config))
    rows, columns = manifest.embed_tokens.table.shape
    assert sum(counted) == sum(graph.parameters for graph in manifest.graphs) + rows * columns
