"""A checkpoint that a training library has saved again is the same model."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.cli import main
from mobile_runtime.bundle import read_manifest


@pytest.fixture
def resaved(random_checkpoint, tmp_path):
    """As transformers 5 saves it: newer keys, buffers, one file beside the index of the shards."""
    folder = tmp_path / "resaved"
    shutil.copytree(random_checkpoint, folder)
    tensors = {}
    for shard in folder.glob("*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    tensors["vpm.embeddings.position_ids"] = np.arange(9)[None]
    save_file(tensors, folder / "model.safetensors")
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors"),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    config["dtype"] = config.pop("torch_dtype", "bfloat16")
    config["vision_config"]["return_dict"] = True
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("backend", ["coreml", "onnx"])
def test_its_bundle_holds_the_same_bytes(random_checkpoint, resaved, tmp_path, backend):
    bundles = []
    for checkpoint in (random_checkpoint, resaved):
        output = tmp_path / "out" / checkpoint.name
        arguments = ["--checkpoint", str(checkpoint), "--output", str(output), "--no-cache"]
        assert main([backend, *arguments, "--quant", "int4-fast", "--quiet"]) == 0
        bundles.append(next(output.iterdir()))
    first, second = (
        {entry.path: entry.sha256 for entry in read_manifest(bundle).files} for bundle in bundles
    )
    assert {name for name in first if first[name] != second[name]} <= {"README.md"}
    assert first.keys() == second.keys() and len(first) > 5
