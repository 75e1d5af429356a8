"""Calibrating: the bodies in torch are the model, and a stopped calibration goes on to the same
weights."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from export.backends import BACKENDS
from export.build.job import open_job
from export.build.progress import Progress
from export.calibration import stage
from export.calibration.chat_format import open_chat_format
from export.calibration.examples import Examples, cut_texts, prepare_chats, read_examples
from export.calibration.inputs import Embedder
from export.calibration.layers import Inputs, LayerRunner, measure
from export.calibration.torch_ops import Compute
from export.checkpoint import open_source
from export.checkpoint.calibrated import CalibratedSource, save_weights
from export.checkpoint.locate import DEFAULT_CHECKPOINT
from export.cli import main
from export.config import ExportConfig
from export.pipeline import export_bundle
from export.quant.methods import Values, quantize
from export.quant.recipe import QuantSpec
from export.quant.weights import LutWeight
from mobile_runtime.bundle import list_files, read_manifest
from mobile_runtime.engines import EngineOptions
from tests.random_checkpoint import write_random_checkpoint
from validation.chats import default_chats
from validation.parity.parity import ParityOptions, run_parity
from validation.reference.reference import Reference
from validation.sources import open_checkpoint

CHATS = [
    [{"role": "user", "content": "Name three colours."}, {"role": "assistant", "content": "Red."}]
]
TEXTS = [
    "The quick brown fox jumps over the lazy dog. " * 9,
    "你好，世界。" * 30,
    "1234567890 " * 40,
]


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    path = tmp_path_factory.mktemp("examples") / "examples.json"
    path.write_text(json.dumps({"chats": CHATS, "texts": TEXTS}))
    return path


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tied") / "checkpoint"
    write_random_checkpoint(folder, tie_word_embeddings=True)
    return folder


def export(checkpoint, output, backend="coreml", **options):
    config = ExportConfig(
        checkpoint=str(checkpoint), output=output, context_length=320, prefill_length=8, **options
    )
    return export_bundle(config, BACKENDS[backend], Progress(quiet=True))


def test_pictures_and_blocks_are_those_of_the_model(random_checkpoint):
    source = open_checkpoint(str(random_checkpoint))
    reference = Reference(source.config, source.checkpoint)
    chats = default_chats()
    chat_format = open_chat_format(random_checkpoint)
    examples = Examples("chats", "", tuple(named.chat for named in chats), ())
    prompts = prepare_chats(examples, chat_format)
    embedder = Embedder(source.checkpoint, source.described, Compute())
    with torch.inference_mode():
        hidden = [embedder.prompt(prompt) for prompt in prompts]
    embeds = reference.image_embeds(prompts)
    wanted = [reference.splice(p, e) for p, e in zip(prompts, embeds, strict=True)]
    for got, want in zip(hidden, wanted, strict=True):
        np.testing.assert_allclose(got, want[: len(got)], atol=2e-5 * np.abs(want).max())
    runner = LayerRunner(source.described, Compute())
    inputs = Inputs.of_texts(hidden)
    ordered = [*wanted[::2], *wanted[1::2]]
    for n in range(source.config.decoder.num_layers):
        inputs = runner.run(inputs, source.checkpoint)
        rows = reference.run_layers([reference.start(w) for w in ordered], range(n, n + 1))
        ordered = [row.hidden for row in rows]
        want = np.concatenate(ordered)
        np.testing.assert_allclose(inputs.hidden, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("columns", [5, 2500])
def test_moments_are_the_means_over_the_inputs_of_a_matrix(columns):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, columns)).astype(np.float32) for n in (30, 50)]
    joined = np.concatenate(x)
    statistics = measure(torch.from_numpy(joined), 30)
    expected = joined.T @ joined / 80
    np.testing.assert_allclose(statistics.second_moments(), expected, atol=1e-5)
    np.testing.assert_allclose(statistics.diagonal(), expected.diagonal(), atol=1e-5)
    for half, part in zip(statistics.parts, x, strict=True):
        np.testing.assert_allclose(half, part.T @ part / len(part), atol=1e-5)


def test_halves_take_every_second_text_and_are_saved(tmp_path):
    texts = [np.full((n, 3), n, np.float32) for n in (4, 1, 2, 7)]
    inputs = Inputs.of_texts(texts)
    assert inputs.lengths == (4, 2, 1, 7) and inputs.split == 6
    assert inputs.hidden[:, 0].tolist() == [4] * 4 + [2] * 2 + [1] + [7] * 7
    assert Inputs.load(tmp_path / "inputs") is None
    inputs.save(tmp_path / "inputs")
    loaded = Inputs.load(tmp_path / "inputs")
    np.testing.assert_array_equal(loaded.hidden, inputs.hidden)
    assert (loaded.block, loaded.lengths, loaded.split) == (0, inputs.lengths, 6)
    alone = Inputs.of_texts(texts[:1])
    assert not measure(torch.from_numpy(alone.hidden), alone.split).has_halves


@pytest.mark.parametrize("backend", ["coreml", "onnx"])
def test_a_calibrated_bundle_is_the_rotated_model_with_its_weights(
    tied, examples, tmp_path, backend
):
    """A tied head becomes a matrix of its own, and the same weights agree to float32."""
    bundle = export(tied, tmp_path, backend, calibration=str(examples))
    assert bundle.name == f"minicpmv-4.5-{backend}-int4-calibrated"
    prepared = read_manifest(bundle).recipe["prepared"]
    assert prepared["examples"]["name"] == "examples.json" and prepared["seed"] == 0
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "rotated (seed 0)" in card and prepared["examples"]["sha256"] in card
    stages = stages_of(bundle, tied, "fp32")
    assert {stage.status for stage in stages.values()} == {"passed"}
    assert stages["end_to_end"].same_weights_db > 70


# What is rounded to float16 is rounded in the rotated basis: in Core ML all weights, in ONNX the
# embeddings, unless they are kept in 32 bits.
@pytest.mark.parametrize(
    ("backend", "override", "floor"), [("coreml", {}, 70), ("onnx", {"embed_tokens": "none"}, 90)]
)
def test_a_rotated_float_bundle_is_the_checkpoint(
    random_checkpoint, tmp_path, backend, override, floor
):
    options = {"quant": "none", "rotate": True, "override": override}
    bundle = export(random_checkpoint, tmp_path, backend, **options)
    end = stages_of(bundle, random_checkpoint, "fp32")["end_to_end"]
    assert end.status == "passed" and end.checkpoint_db > floor


def stages_of(bundle, checkpoint, precision):
    options = ParityOptions(EngineOptions(precision=precision), new_tokens=4)
    report = run_parity(bundle, open_checkpoint(str(checkpoint)), default_chats(), options)
    return {stage.stage: stage for stage in report.stages}


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_channel_beyond_float16_fits_when_it_is_spread(tmp_path):
    """The residual stream of real models has channels hundreds of times as large as others."""
    write_random_checkpoint(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint/model.safetensors"
    tensors = load_file(path)
    layer = "llm.model.layers.0"
    tensors[f"{layer}.post_attention_layernorm.weight"] *= 10
    tensors[f"{layer}.mlp.down_proj.weight"][7] *= 1000
    save_file(tensors, path)
    found = {}
    for rotate in (False, True):
        bundle = export(
            tmp_path / "checkpoint", tmp_path / str(rotate), quant="none", rotate=rotate
        )
        found[rotate] = stages_of(bundle, tmp_path / "checkpoint", "fp16")
    assert {stage.status for stage in found[True].values()} == {"passed"}
    assert found[False]["decoder"].status == found[False]["end_to_end"].status == "failed"


def test_rotated_parts_are_not_taken_for_others_from_the_cache(random_checkpoint, tmp_path):
    cache = tmp_path / "cache"
    export(random_checkpoint, tmp_path, quant="none", rotate=True, cache=cache)
    after = export(random_checkpoint, tmp_path / "after", quant="none", cache=cache)
    fresh = export(random_checkpoint, tmp_path / "fresh", quant="none", no_cache=True)
    assert list_files(after) == list_files(fresh)


def test_a_stopped_calibration_goes_on_to_the_same_weights(
    random_checkpoint, examples, tmp_path, monkeypatch
):
    config = ExportConfig(checkpoint=str(random_checkpoint), calibration=str(examples))
    job = open_job(random_checkpoint, config, BACKENDS["coreml"])

    def run(root, report=lambda *_: None):
        given = read_examples(str(examples))
        return stage.calibrate(job, config, given, root, report).folder

    whole = run(tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(*_):
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "stopped", kill)
    embedded = []
    monkeypatch.setattr(stage, "embed_examples", lambda *_: embedded.append(1))
    gone_on = run(tmp_path / "stopped")
    assert embedded == [], "the inputs of the next block were kept"
    assert list_files(gone_on) == list_files(whole)
    assert not list((tmp_path / "stopped").glob("*.partial"))
    monkeypatch.setattr(stage._Work, "run", None)
    assert run(tmp_path / "whole") == whole, "a finished calibration is found again"


def test_decoder_and_head_are_calibrated_and_their_weights_are_nearer_where_it_counts(
    random_checkpoint, examples, tmp_path
):
    config = ExportConfig(checkpoint=str(random_checkpoint), calibration=str(examples))
    job = open_job(random_checkpoint, config, BACKENDS["coreml"])
    given = read_examples(str(examples))
    done = stage.calibrate(job, config, given, tmp_path, lambda *_: None)
    source = open_source(done.folder)
    blocks = [name for name in source.weights if name.startswith("llm.model.layers.")]
    assert len(blocks) == 7 * job.model.decoder.num_layers
    assert source.weights.keys() - blocks == {"llm.lm_head.weight"}
    name = "llm.model.layers.1.mlp.down_proj.weight"
    weight = source.read_weight(name, 0, source.tensors[name].row_count)
    assert isinstance(weight, LutWeight)
    np.testing.assert_array_equal(weight.dequantize(), source.read(name))


def test_rows_finished_in_parts_are_read_across_them(random_checkpoint, tmp_path):
    name, source = "llm.lm_head.weight", open_source(random_checkpoint)
    whole = source.read(name).astype(np.float32)
    middle, count = 128, len(whole)
    padded = -(-count // 4) * 4 + 4
    ends, spec = {"a": (0, middle), "b": (middle, padded)}, QuantSpec("lut", 6, 4)
    weights = {
        part: quantize(Values(whole[begin:end], part, end - begin), replace(spec, method="kmeans"))
        for part, (begin, end) in ends.items()
    }
    begins = {part: (name, begin) for part, (begin, _) in ends.items()}
    save_weights(weights, dict.fromkeys(weights, spec), tmp_path / "head.safetensors", begins)
    finished = CalibratedSource(source, [tmp_path / "head.safetensors"])
    expected = np.concatenate([weights[part].dequantize() for part in "ab"])[:count]
    np.testing.assert_array_equal(finished.read(name), expected)
    np.testing.assert_array_equal(finished.read_rows(name, 100, 140), expected[100:140])
    assert len(finished.read_rows(name, count, padded)) == 0
    second = finished.read_weight(name, middle, padded)
    np.testing.assert_array_equal(second.dequantize(), weights["b"].dequantize())
    digests = {finished.digest(name, *rows) for rows in ((0, middle), (0, count), (middle, padded))}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not valid JSON"),
        ('{"chats": [], "texts": []}', "holds neither chats nor texts"),
        ('{"texts": ["", ""]}', "holds neither chats nor texts"),
        ('{"prompts": []}', "must be a list of chats, or an object with chats and texts"),
        ('{"texts": [1]}', "texts must be a list of strings"),
        ('{"texts": "a"}', "texts must be a list"),
        ('[[{"role": "cat", "content": "?"}]]', "has the role 'cat'"),
        ('[{"question": "?"}]', "chat 1 must be a list of messages"),
    ],
)
def test_bad_examples_are_refused_before_anything_is_written(
    random_checkpoint, tmp_path, capsys, content, message
):
    path = tmp_path / "examples.json"
    path.write_text(content)
    output = tmp_path / "out"
    arguments = ["--checkpoint", str(random_checkpoint), "--calibration", str(path)]
    cache = ["--cache", str(tmp_path / "cache"), "--output", str(output), "--quiet"]
    assert main(["coreml", *arguments, *cache]) == 2
    assert message in capsys.readouterr().err
    assert list(output.glob("*")) == []


def test_examples_with_another_picture_are_others(tmp_path):
    path = tmp_path / "chats.json"
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "?"}]
    path.write_text(json.dumps([[{"role": "user", "content": content}]]))
    digests = set()
    for colour in ("red", "blue", "red"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "a.png")
        digests.add(read_examples(str(path)).sha256)
    assert len(digests) == 2


def test_the_shipped_examples_are_readable_by_the_default_model():
    examples = read_examples("default")
    chat_format = open_chat_format(DEFAULT_CHECKPOINT)
    prompts = prepare_chats(examples, chat_format)
    assert len(prompts) == len(examples.chats) > 30
    assert any(prompt.groups for prompt in prompts)
    pieces = cut_texts(examples, chat_format, 1 << 20)
    assert len(pieces) >= len(examples.texts) and len({tuple(piece) for piece in pieces}) > 70
    assert all(len(piece) <= 512 for piece in pieces)


def test_pieces_of_texts_are_whole_and_spread_over_all_of_them():
    chat_format = open_chat_format(DEFAULT_CHECKPOINT)
    texts = tuple(f"{letter} " * 3000 for letter in "ABCDEFGH")
    examples = Examples("texts", "", (), texts)
    pieces = cut_texts(examples, chat_format, 8192)
    assert len(pieces) == 16 and {len(piece) for piece in pieces} == {512}
    assert len({piece[0] for piece in pieces} | {piece[1] for piece in pieces}) >= 8
    short = cut_texts(Examples("texts", "", (), ("Hi", "")), chat_format, 1)
    assert [len(piece) for piece in short] == [len(chat_format.tokenizer.encode_text("Hi"))]


def test_int4_is_calibrated_on_the_examples_that_ship(random_checkpoint, tmp_path, monkeypatch):
    """Told so or not, they are the same bundle."""
    monkeypatch.setattr("export.calibration.examples.read_examples", lambda given: _few(given))
    bundles = [
        export(random_checkpoint, tmp_path / str(n), cache=tmp_path / "cache", **options)
        for n, options in enumerate(({}, {"calibration": "default"}))
    ]
    assert {bundle.name for bundle in bundles} == {"minicpmv-4.5-coreml-int4"}
    assert list_files(bundles[0]) == list_files(bundles[1])
    assert read_manifest(bundles[0]).recipe["prepared"]["examples"]["name"] == "default"


def _few(given):
    whole = read_examples(given)
    return replace(whole, chats=whole.chats[:2], texts=whole.texts[:2])


def test_a_decoder_of_floats_is_neither_calibrated_nor_rotated(random_checkpoint, tmp_path):
    bundle = export(random_checkpoint, tmp_path, override={"decoder": "none"}, no_cache=True)
    assert "prepared" not in read_manifest(bundle).recipe


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quant", "none"], "recipe none has none to choose"),
        (["--override", "decoder=none"], "recipe int4+decoder=none has none to choose"),
        (["--quant", "int4-fast"], "give --quant int4 with --calibration"),
    ],
)
def test_a_calibration_that_would_choose_nothing_is_refused(
    random_checkpoint, tmp_path, capsys, flags, message
):
    where = ["--checkpoint", str(random_checkpoint), "--output", str(tmp_path / "out")]
    for more in ([], ["--plan"]):
        assert main(["coreml", *where, "--calibration", "default", *flags, *more]) == 2
        printed = capsys.readouterr()
        assert message in printed.err and "decoder_01" not in printed.out + printed.err
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.parametrize("flags", [[], ["--quant", "none", "--rotate"]])
def test_without_torch_int4_fast_is_named_before_anything_is_read(
    random_checkpoint, tmp_path, capsys, monkeypatch, flags
):
    monkeypatch.setitem(sys.modules, "export.calibration.stage", None)
    monkeypatch.setattr("export.pipeline.locate_checkpoint", None)
    where = ["--checkpoint", str(random_checkpoint), "--output", str(tmp_path / "out")]
    assert main(["coreml", *where, *flags, "--quiet"]) == 2
    assert "torch, which is not installed" in (error := capsys.readouterr().err)
    assert "or give --quant int4-fast without --rotate" in error


def test_a_plan_says_how_long_the_calibration_takes(random_checkpoint, capsys):
    arguments = ["--checkpoint", str(random_checkpoint), "--calibration", "default", "--plan"]
    assert main(["coreml", *arguments]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "by error_feedback" in shown and "calibrates for about 0 min, then reads" in shown


def test_a_device_that_is_not_there_is_refused_at_once(random_checkpoint, tmp_path, capsys):
    arguments = ["--checkpoint", str(random_checkpoint), "--rotate", "--device", "quantum"]
    output = ["--output", str(tmp_path / "out"), "--no-cache", "--quiet"]
    assert main(["coreml", *arguments, *output]) == 2
    assert "torch cannot compute on --device quantum" in capsys.readouterr().err
    assert list((tmp_path / "out").glob("*")) == []
