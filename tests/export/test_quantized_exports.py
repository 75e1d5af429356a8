"""Exports of checkpoints that other tools have quantized: integers are kept where the target takes
their blocks, and every command reads them through the same door."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.checkpoint import open_source
from export.checkpoint.adapters import merged_source, parse_adapter
from export.checkpoint.source import content_sha256
from export.cli import main
from export.quant.kmeans import palettize
from mobile_runtime.bundle import read_manifest
from mobile_runtime.engines import EngineOptions
from validation.chats import default_chats
from validation.cli import main as validate
from validation.parity.metrics import psnr
from validation.parity.parity import ParityOptions, run_parity
from validation.sources import bundle_plan, open_checkpoint
from validation.stored import read_stored

ADAPTER = Path(__file__).parent / "checkpoint" / "adapters" / "dora"  # of some matrices
SIZES = ["--context-length", "320", "--prefill-length", "8"]
_PLACES = 4 * np.arange(8, dtype=np.uint32)


def words(fields, axis):
    """Fields of four bits as 32-bit words, eight along an axis from the lowest bits on."""
    moved = np.moveaxis(fields.astype(np.uint32), axis, -1)
    moved = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, -moved.shape[-1] % 8)])
    packed = np.bitwise_or.reduce(moved.reshape(*moved.shape[:-1], -1, 8) << _PLACES, axis=-1)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32)


def rounded(weight, size, symmetric):
    """Integers (rows, columns), scales and zero points (rows, groups) of a matrix."""
    cut = weight.astype(np.float32).reshape(len(weight), -1, size)
    low, high = cut.min(2), cut.max(2)
    if symmetric:
        high = np.maximum(high, -low)
        low = -high
    scale = ((high - low) / 15).astype(np.float16)
    zero = np.full(scale.shape, 8) if symmetric else np.rint(-low / scale).clip(1, 15)
    integers = np.rint(cut / scale[:, :, None] + zero[:, :, None]).clip(0, 15)
    return integers.astype(np.uint8).reshape(weight.shape), scale, zero.astype(np.uint8)


def gptq(weight, size, symmetric):
    integers, scale, zero = rounded(weight, size, symmetric)
    return {
        "qweight": words(integers.T, 0),
        "qzeros": words(zero.T - 1, 1),
        "scales": np.ascontiguousarray(scale.T),
        "g_idx": (np.arange(weight.shape[1]) // size).astype(np.int32),
    }


def awq(weight, size, symmetric):
    integers, scale, zero = rounded(weight, size, symmetric)
    order = np.arange(len(weight)).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(-1)
    return {
        "qweight": words(integers.T[:, order], 1),
        "qzeros": words(zero.T[:, order], 1),
        "scales": np.ascontiguousarray(scale.T),
    }


def is_quantized(name):
    return name.startswith("llm.model.layers.") and name.endswith("proj.weight")


def write(checkpoint, folder, pack, size, symmetric, chosen=is_quantized):
    """The random checkpoint with all projections of the decoder packed, or those `chosen`."""
    shutil.copytree(checkpoint, folder)
    path = folder / "config.json"
    config = {"quant_method": pack.__name__, "bits": 4, "group_size": size}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}))
    tensors = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        module, last = name.rsplit(".", 1)
        parts = pack(weight, size, symmetric) if chosen(name) else {last: weight}
        tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def checkpoint(random_checkpoint, tmp_path_factory):
    """checkpoint(pack, size, symmetric) -> a folder."""

    def make(pack, size, symmetric):
        folder = tmp_path_factory.mktemp("quantized") / f"{pack.__name__}{size}"
        return write(random_checkpoint, folder, pack, size, symmetric)

    return make


def export(backend, folder, output, *flags, code=0):
    out = ["--output", str(output), "--cache", str(output / "cache"), "--quiet"]
    assert main([backend, "--checkpoint", str(folder), *SIZES, *out, *flags]) == code
    return next(output.glob("minicpmv-*"), None)


def parity(bundle, source):
    """The weights and the decoder beside those of PyTorch."""
    decoder = [graph.name for graph in read_manifest(bundle).graphs if graph.role == "decoder"]
    options = ParityOptions(EngineOptions(precision="fp32"), stages=["weights", *decoder])
    report = run_parity(bundle, source, default_chats()[:1], options)
    found = {stage.stage: stage for stage in report.stages if stage.note != "not selected"}
    assert {stage.status for stage in found.values()} == {"passed"}
    return found


@pytest.mark.parametrize(
    ("backend", "pack", "size", "symmetric", "quant"),
    [
        ("onnx", gptq, 128, True, "int4-fast"),
        ("onnx", awq, 32, False, "none"),
        ("onnx-portable", gptq, 32, False, "int4"),
    ],
)
def test_onnx_keeps_every_integer(
    random_checkpoint, checkpoint, tmp_path, backend, pack, size, symmetric, quant
):
    """Of all matrices that the tool quantized, whatever the recipe says of them."""
    folder = checkpoint(pack, size, symmetric)
    bundle, source = (
        export(backend, folder, tmp_path, "--quant", quant),
        open_checkpoint(str(folder)),
    )
    published = load_file(random_checkpoint / "model.safetensors")
    names = [name for name in published if is_quantized(name)]
    manifest, weights = read_manifest(bundle), source.checkpoint.weights
    assert weights.keys() == set(names) and len(names) == 14
    plan = bundle_plan(manifest, source)
    assert {name for name, spec in plan.specs.items() if spec.method == "stored"} == set(names)
    shapes = {name: published[name].shape for name in names}
    for name, load in read_stored(bundle, manifest, weights, shapes).items():
        weight, (integers, scale, zero) = load(), rounded(published[name], size, symmetric)
        np.testing.assert_array_equal(weight.q, integers.astype(int) - 8)
        np.testing.assert_array_equal(weight.scale, scale.astype(np.float32))
        if symmetric:
            assert weight.offset is None
        else:
            expected = (8 - zero.astype(np.float32)) * scale.astype(np.float32)
            np.testing.assert_array_equal(weight.offset, expected)
    found = parity(bundle, source)
    floor = 15 if quant == "int4-fast" else 45
    assert all(stage.checkpoint_db > floor for name, stage in found.items() if name != "weights")


@pytest.fixture(scope="module")
def awq128(checkpoint):
    return checkpoint(awq, 128, False)


def test_matrices_beside_each_other_may_be_stored_in_several_ways(random_checkpoint, tmp_path):
    """Of queries, keys and values, or two of a gate: the tool may have left some as floats."""
    folder = tmp_path / "checkpoint"
    names = ("0.self_attn.k_proj", "0.self_attn.v_proj", "1.self_attn.q_proj", "1.mlp.up_proj")
    chosen = [f"llm.model.layers.{name}.weight" for name in names]
    write(random_checkpoint, folder, awq, 32, False, chosen.__contains__)
    bundle, source = (
        export("onnx", folder, tmp_path, "--quant", "int4-fast"),
        open_checkpoint(str(folder)),
    )
    plan = bundle_plan(read_manifest(bundle), source)
    kept = {name for name, spec in plan.specs.items() if spec.method == "stored"}
    assert kept == set(chosen)
    assert parity(bundle, source)


def test_a_table_of_embeddings_takes_no_blocks(random_checkpoint, tmp_path):
    """All others do, in every part of the model."""
    chosen = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")
    vision = "vpm.encoder.layers.0.mlp.fc1.weight"
    folder = tmp_path / "checkpoint"
    write(random_checkpoint, folder, gptq, 32, False, lambda name: name in (*chosen, vision))
    bundle, source = (
        export("onnx", folder, tmp_path, "--quant", "int4-fast"),
        open_checkpoint(str(folder)),
    )
    assert source.checkpoint.weights.keys() == {*chosen, vision}
    plan = bundle_plan(read_manifest(bundle), source)
    kept = {name for name, spec in plan.specs.items() if spec.method == "stored"}
    assert kept == {"llm.lm_head.00.weight", vision}
    assert parity(bundle, source)


def test_core_ml_makes_tables_of_what_they_stand_for(awq128, tmp_path, capsys):
    """Sixteen values per row and block become sixteen per sixteen rows, which parity measures."""
    source = open_checkpoint(str(awq128))
    bundle = export("coreml", awq128, tmp_path, "--quant", "int4-fast")
    quality = parity(bundle, source)["weights"].metrics["4-bit dB"]
    name = "llm.model.layers.0.mlp.down_proj.weight"
    before = source.checkpoint.read(name).astype(np.float32)
    after = palettize(before, bits=4, group_size=16, name=name).dequantize()
    assert 15 < quality <= psnr(after, before)
    path = awq128 / "config.json"
    config = path.read_text()
    path.write_text(config.replace('"awq"', '"hqq"'))
    try:
        assert validate(["parity", str(bundle), "--checkpoint", str(awq128)]) == 2
    finally:
        path.write_text(config)
    assert "says quant_method 'hqq', which is not read" in capsys.readouterr().err


def test_a_plan_says_what_is_kept(awq128, tmp_path, capsys):
    assert (
        main(["onnx", "--checkpoint", str(awq128), *SIZES, "--plan", "--output", str(tmp_path)])
        == 0
    )
    said = " ".join(capsys.readouterr().err.split())
    assert "asymmetric 4-bit" in said.replace("4-bit asymmetric", "asymmetric 4-bit")
    assert not list(tmp_path.iterdir())
    bare = tmp_path / "bare"  # as a plan downloads it
    shutil.copytree(awq128, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    assert main(["onnx", "--checkpoint", str(bare), *SIZES, "--plan"]) == 0


def test_parts_are_found_in_the_cache_until_the_configuration_changes(awq128, tmp_path, capsys):
    folder, arguments = tmp_path / "checkpoint", ["--cache", str(tmp_path / "cache"), *SIZES]
    shutil.copytree(awq128, folder)

    def run(output):
        out = ["--quant", "int4-fast", "--output", str(tmp_path / output)]
        assert main(["coreml", "--checkpoint", str(folder), *arguments, *out]) == 0
        return " ".join(capsys.readouterr().err.split()).count("taken from the cache")

    assert [run("first"), run("second")] == [0, 5]
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"group_size": 128', '"group_size": 128, "x": 1'))
    assert run("third") == 5, "another configuration, but the same values"
    path.write_text(path.read_text().replace('"awq"', '"gptq"'))
    assert main(["coreml", "--checkpoint", str(folder), *arguments, "--quant", "int4-fast"]) == 2
    assert "parts do not fit each other" in capsys.readouterr().err


def test_an_adapter_is_merged_into_what_they_stand_for(awq128, tmp_path):
    """The bundle names the content of the same model in floats, merged."""
    bundle = export("coreml", awq128, tmp_path, "--quant", "none", "--adapter", str(ADAPTER))
    origin, plain = open_source(awq128), tmp_path / "plain"
    shutil.copytree(awq128, plain)
    config = json.loads((plain / "config.json").read_text())
    del config["quantization_config"]
    (plain / "config.json").write_text(json.dumps(config))
    save_file({name: origin.read(name) for name in origin.tensors}, plain / "model.safetensors")
    merged = merged_source(open_source(plain), [parse_adapter(str(ADAPTER))])
    assert read_manifest(bundle).source.sha256 == content_sha256(merged)


def test_a_calibration_takes_what_they_stand_for(awq128, tmp_path, capsys):
    """But not where the target keeps their integers."""
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"texts": ["The quick brown fox. " * 30]}))
    given = ["--quant", "int4", "--calibration", str(texts)]
    assert export("coreml", awq128, tmp_path / "coreml", *given)
    rotated = ["--rotate", "--quant", "int4-fast"]
    assert export("onnx", awq128, tmp_path / "onnx", *rotated, code=2) is None
    assert "holds quantized weights, which a calibration or rotation" in capsys.readouterr().err
