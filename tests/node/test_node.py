"""onnxruntime-node, another runtime, writes the text that the Python session writes."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.cli import main
from mobile_runtime.engines import EngineOptions
from mobile_runtime.model.positions import position_ids
from mobile_runtime.pictures.preprocess import patches
from mobile_runtime.session import GREEDY, Session
from tests.paths import PICTURES

FOLDER = Path(__file__).parent
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Run generate.mjs with onnxruntime-node installed beside it."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm and node are not installed")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "generate.mjs"):
        shutil.copyfile(FOLDER / name, folder / name)
    command = ["npm", "install", "--no-audit", "--no-fund", "--onnxruntime-node-install=skip"]
    try:
        installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("npm could not fetch onnxruntime-node within five minutes")
    if installed.returncode:
        pytest.skip(f"npm could not install onnxruntime-node: {installed.stderr[-300:]}")

    def run(bundle, request):
        path = folder / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        command = ["node", "generate.mjs", str(bundle.resolve()), str(path)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def pocket_onnx(tmp_path_factory):
    """The bundle that `python -m export onnx` writes without further options."""
    output = tmp_path_factory.mktemp("onnx")
    assert main(["onnx", "--output", str(output), "--no-cache", "--quiet"]) == 0
    (bundle,) = output.iterdir()
    return bundle


def request_of(session, prompt):
    """What the host computes for a prompt, as lists."""
    buckets = session.manifest.preprocessing.position_buckets
    groups = []
    for views, group in zip(prompt.groups, prompt.encoded.groups, strict=True):
        grids = np.concatenate([np.indices(v.tgt_size).reshape(2, -1) for v in views], axis=1)
        lengths = [v.tgt_size[0] * v.tgt_size[1] for v in views]
        groups.append(
            {
                "views": [
                    {
                        "pixel_values": patches(v).T.reshape(-1).tolist(),
                        "position_ids": position_ids(*v.tgt_size, buckets).tolist(),
                    }
                    for v in views
                ],
                "row_ids": grids[0].tolist(),
                "column_ids": grids[1].tolist(),
                "temporal_ids": np.repeat(group.temporal_ids, lengths).tolist(),
            }
        )
    return {
        "input_ids": prompt.encoded.input_ids.tolist(),
        "bounds": prompt.encoded.image_bound.tolist(),
        "groups": groups,
        "max_new_tokens": NEW_TOKENS,
    }


@pytest.mark.parametrize("picture", ["sign.png", "shapes.png"])
def test_node_writes_the_text_that_python_writes(node, pocket_onnx, picture):
    question = {"type": "text", "text": "What do you see?"}
    image = {"type": "image", "image": str(PICTURES / picture)}
    messages = [{"role": "user", "content": [image, question]}]
    session = Session.load(pocket_onnx, EngineOptions())
    prompt = session.prepare(messages)
    stream = session.chat(messages, GREEDY)
    "".join(stream)
    tokens = node(pocket_onnx, request_of(session, prompt))
    assert tokens == stream.token_ids[:NEW_TOKENS]
