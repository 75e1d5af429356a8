"""Parity of ONNX bundles with PyTorch, in both profiles, and answers from them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mobile_runtime.bundle import list_files, read_manifest, write_manifest
from mobile_runtime.engines import EngineOptions
from validation.chats import default_chats
from validation.cli import main
from validation.parity.parity import ParityOptions, run_parity
from validation.sources import open_checkpoint

BOTH = ["onnx", "onnx-portable"]
DECODER = "decoder_model_merged"
STAGES = [
    *("preprocessing", "weights", "vision_encoder", "resampler", "embeddings"),
    *(DECODER, "end_to_end", "greedy_tokens"),
]
# Float32 arithmetic in another order; the exporter's own floor leaves room for deep models.
FLOAT32_DB = 90


@pytest.fixture(scope="module")
def source(random_checkpoint):
    return open_checkpoint(str(random_checkpoint))


def parity(bundle, source, precision="fp32", stages=None, chats=None):
    options = ParityOptions(EngineOptions(precision=precision), 4, stages)
    return run_parity(bundle, source, chats or default_chats(), options)


def by_name(report):
    return {stage.stage: stage for stage in report.stages}


@pytest.mark.parametrize("backend", BOTH)
def test_unquantized_bundle_equals_the_checkpoint(make_onnx_bundle, source, backend):
    stages = by_name(parity(make_onnx_bundle(backend, "none"), source))
    assert list(stages) == STAGES
    assert {stage.status for stage in stages.values()} == {"passed"}
    for name in ("vision_encoder", "resampler", DECODER, "end_to_end"):
        assert stages[name].checkpoint_db >= FLOAT32_DB, name


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("quant", ["int4-fast", "int8"])
def test_quantized_bundle_equals_pytorch_with_the_same_weights(
    make_onnx_bundle, source, backend, quant
):
    stages = by_name(parity(make_onnx_bundle(backend, quant), source))
    assert {stage.status for stage in stages.values()} == {"passed"}
    for name in ("vision_encoder", "resampler", "embeddings", DECODER, "end_to_end"):
        assert stages[name].same_weights_db >= FLOAT32_DB, name
    # Quantization itself is seen: it is another model than the checkpoint.
    assert stages[DECODER].checkpoint_db < FLOAT32_DB


# Part, its precision, the stage that shows it.
OVERRIDES = {
    "asymmetric blocks": ("decoder", "int4a", DECODER),
    "wide blocks": ("decoder", "int4b128", DECODER),
    "half precision decoder": ("decoder", "fp16", DECODER),
    "8-bit tower": ("vision_encoder", "int8", "vision_encoder"),
    "8-bit resampler": ("resampler", "int8", "resampler"),
    "half precision embeddings": ("embed_tokens", "fp16", "embeddings"),
    "4-bit head": ("lm_head", "int4", DECODER),
}
PICTURE, _, TEXT = range(3)  # of the default chats


@pytest.fixture(scope="module")
def make_overridden(random_checkpoint, tmp_path_factory):
    """A bundle with one part in another precision, through the command line."""
    from export import cli

    def make(backend, part, precision):
        output = tmp_path_factory.mktemp("overridden")
        flags = ["--override", f"{part}={precision}", "--context-length", "320", "--quiet"]
        flags += ["--quant", "int4-fast"]
        arguments = ["--checkpoint", str(random_checkpoint), "--output", str(output), *flags]
        assert cli.main([backend, *arguments]) == 0
        (bundle,) = output.iterdir()
        return bundle

    return make


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("name", OVERRIDES)
def test_every_precision_of_every_part_equals_pytorch(make_overridden, source, backend, name):
    *override, stage = OVERRIDES[name]
    chat = default_chats()[TEXT if stage == DECODER else PICTURE]
    bundle = make_overridden(backend, *override)
    result = by_name(parity(bundle, source, stages=[stage], chats=[chat]))[stage]
    assert result.status == "passed"
    assert result.same_weights_db >= FLOAT32_DB


@pytest.mark.parametrize("backend", BOTH)
def test_graphs_that_round_for_speed_stay_above_their_floor(make_onnx_bundle, source, backend):
    """Products alone: a cache of 8 bits adds an error of its own."""
    bundle = make_onnx_bundle(backend, "int4-fast", "float32")
    stages = by_name(parity(bundle, source, "fp16", [DECODER]))
    assert stages[DECODER].status == "passed"
    assert stages[DECODER].same_weights_floor == 40
    assert stages[DECODER].same_weights_db < FLOAT32_DB, "activations are rounded to 8 bits"


def test_a_cache_of_eight_bits_is_reported_and_not_judged(make_onnx_bundle, source):
    bundle = make_onnx_bundle("onnx", "none", "int8")
    stages = by_name(parity(bundle, source, "fp16", [DECODER]))
    assert stages[DECODER].same_weights_floor is None
    assert stages[DECODER].status == "passed"
    assert stages[DECODER].same_weights_db < FLOAT32_DB, "the cache is rounded"


def test_a_bundle_with_other_weights_fails_where_they_are(make_onnx_bundle, source, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(make_onnx_bundle("onnx", "int4-fast"), bundle)
    data = np.fromfile(bundle / f"{DECODER}.onnx_data", np.uint8)
    data[20_000:24_000] = np.random.default_rng(0).integers(0, 256, 4000)
    data.tofile(bundle / f"{DECODER}.onnx_data")
    write_manifest(bundle, replace(read_manifest(bundle), files=list_files(bundle)))
    stages = by_name(parity(bundle, source, stages=["vision_encoder", DECODER, "end_to_end"]))
    statuses = [stages[name].status for name in ("vision_encoder", DECODER, "end_to_end")]
    assert statuses == ["passed", "failed", "failed"]


def test_answers_runs_on_a_bundle(make_onnx_bundle, random_checkpoint, tmp_path, capsys):
    """Random weights answer nothing rightly; unquantized, both compute the same nonsense."""
    target = tmp_path / "answers.json"
    arguments = ["answers", str(make_onnx_bundle("onnx", "none", context_length=512))]
    arguments += ["--checkpoint", str(random_checkpoint), "--limit", "2"]
    arguments += ["--tasks", "printed_text", "--jobs", "1", "--precision", "fp32"]
    assert main([*arguments, "--json", str(target)]) == 0
    assert "printed_text" in capsys.readouterr().out
    report = json.loads(target.read_text())
    assert report["agreement"] == {"onnx none exact": 1.0}
    assert report["scores"]["printed_text"]["onnx none exact"]["total"] == 2
