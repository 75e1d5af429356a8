"""Parity passes for what the exporter writes, and fails for a bundle that is not the model."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mobile_runtime.bundle import list_files, read_manifest, verify_files, write_manifest
from mobile_runtime.engines import EngineOptions
from validation.chats import default_chats
from validation.parity.golden import write_golden
from validation.parity.parity import ParityOptions, run_parity
from validation.sources import open_checkpoint

CONTEXT = 320
STAGES = [
    *("preprocessing", "weights", "vision_encoder", "resampler", "embeddings"),
    *("decoder", "logits", "end_to_end", "greedy_tokens"),
]


@pytest.fixture(scope="module")
def source(random_checkpoint):
    return open_checkpoint(str(random_checkpoint))


def parity(bundle, source, precision="fp32", stages=None):
    options = ParityOptions(EngineOptions(precision=precision), 4, stages)
    return run_parity(bundle, source, default_chats(), options)


def by_name(report):
    return {stage.stage: stage for stage in report.stages}


@pytest.mark.parametrize("kv_cache", ["state", "io"])
def test_unquantized_bundle_equals_the_checkpoint(make_bundle, source, kv_cache):
    report = parity(make_bundle("none", kv_cache, CONTEXT), source)
    stages = by_name(report)
    assert list(stages) == STAGES
    assert {stage.status for stage in report.stages} == {"passed"}
    assert stages["end_to_end"].checkpoint_floor == 70
    assert stages["logits"].checkpoint_db >= 90
    logits = {name for name, stage in stages.items() if "KL" in stage.metrics}
    assert logits == {"logits", "end_to_end"}  # a decoder in packages ends with hidden states
    assert stages["decoder"].metrics.keys() == {"cosine"}


def test_half_precision_stays_above_its_floor(make_bundle, source):
    report = parity(make_bundle("none", "state", CONTEXT), source, "fp16")
    assert not report.failed
    assert by_name(report)["decoder"].checkpoint_floor == 50


@pytest.mark.parametrize("quant", ["int4-fast", "int8"])
def test_quantized_bundle_equals_pytorch_with_the_same_weights(make_bundle, source, quant):
    report = parity(make_bundle(quant, "state", CONTEXT), source)
    decoder = by_name(report)["decoder"]
    assert not report.failed
    assert decoder.same_weights_db >= 70 > decoder.checkpoint_db
    assert decoder.checkpoint_floor is None


def test_a_bundle_with_other_weights_fails_where_they_are(make_bundle, source, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(
        make_bundle("int4-fast", "state", CONTEXT), bundle, copy_function=shutil.copyfile
    )
    blob = bundle / "decoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    data = np.fromfile(blob, np.uint8)
    data[20_000:24_000] = np.random.default_rng(0).integers(0, 256, 4000)
    data.tofile(blob)
    manifest = read_manifest(bundle)
    write_manifest(bundle, replace(manifest, files=list_files(bundle)))
    stages = by_name(parity(bundle, source, stages=["vision_encoder", "decoder", "end_to_end"]))
    statuses = [stages[name].status for name in ("vision_encoder", "decoder", "end_to_end")]
    assert statuses == ["passed", "failed", "failed"]


def test_changed_preprocessing_constants_fail(make_bundle, source, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(make_bundle("int4-fast", "state", CONTEXT), bundle)
    manifest = read_manifest(bundle)
    changed = replace(manifest.preprocessing, norm_mean=(0.4, 0.5, 0.5))
    write_manifest(bundle, replace(manifest, preprocessing=changed))
    report = parity(bundle, source, stages=["preprocessing"])
    assert by_name(report)["preprocessing"].status == "failed"


def test_stages_that_were_not_selected_are_not_run(make_bundle, source):
    report = parity(make_bundle("int4-fast", "state", CONTEXT), source, stages=["embeddings"])
    assert [stage.stage for stage in report.stages if stage.status == "passed"] == ["embeddings"]
    assert {stage.status for stage in report.stages} == {"passed", "not run"}


def test_another_checkpoint_is_refused(make_bundle, random_checkpoint, tmp_path):
    from mobile_runtime.errors import InputError

    folder = tmp_path / "other"
    shutil.copytree(random_checkpoint, folder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="was not made from"):
        parity(make_bundle("int4-fast", "state", CONTEXT), open_checkpoint(str(folder)))


def test_golden_vectors_are_the_references_and_become_part_of_the_bundle(
    make_bundle, source, tmp_path
):
    from safetensors.numpy import load_file

    bundle = tmp_path / "bundle"
    shutil.copytree(make_bundle("int4-fast", "state", CONTEXT), bundle)
    write_golden(bundle, source, default_chats())
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    listed = {entry.path for entry in manifest.files}
    assert {"golden/chats.json", "golden/arrays.safetensors", "golden/picture_0.png"} <= listed
    chats = json.loads((bundle / "golden/chats.json").read_text())
    arrays = load_file(bundle / "golden/arrays.safetensors")
    assert [chat["name"] for chat in chats] == ["picture", "video", "text"]
    assert arrays["picture.patches.0.0"].shape == (588, 28 * 37)
    assert arrays["video.image_embeds.0"].shape == (64, 256)
    assert len(chats[0]["greedy_tokens"]) == 16
