"""Parameters derived from checkpoint tensors: folds, blocks, reshapes."""

import ml_dtypes
import numpy as np
import pytest
import torch

from export.graphs.parameters import (
    flattened,
    fold_key_query,
    key_query,
    row_block,
    stored,
    transposed,
    vector_block,
)
from export.graphs.weights import load_weight
from export.quant.recipe import FLOAT16
from mobile_runtime.errors import InputError

DIM, HEADS, QUERIES, KEYS = 256, 2, 64, 50


@pytest.fixture
def resampler(arrays):
    """Random tensors of a resampler's queries and projections, as a checkpoint names them."""
    random = np.random.default_rng(3)

    def normal(*shape):
        return random.standard_normal(shape, dtype=np.float32)

    return arrays(
        {
            "resampler.query": normal(QUERIES, DIM),
            "resampler.ln_q.weight": 1 + 0.2 * normal(DIM),
            "resampler.ln_q.bias": 0.3 * normal(DIM),
            "resampler.attn.in_proj_weight": normal(3 * DIM, DIM) / DIM**0.5,
            "resampler.attn.in_proj_bias": normal(3 * DIM),
        }
    )


def torch_weights(resampler, keys):
    """(heads, queries, keys): what torch's own attention gives the keys."""
    tensors = {name.removeprefix("resampler."): torch.tensor(v) for name, v in resampler.items()}
    attention = torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    attention.in_proj_weight.data = tensors["attn.in_proj_weight"]
    attention.in_proj_bias.data = tensors["attn.in_proj_bias"]
    weight, bias = tensors["ln_q.weight"], tensors["ln_q.bias"]
    query = torch.nn.functional.layer_norm(tensors["query"], (DIM,), weight, bias, 1e-6)
    keys = torch.tensor(keys)
    with torch.no_grad():
        return attention(query, keys, keys, average_attn_weights=False)[1].numpy()


def test_folded_queries_attend_as_torchs_attention_does(resampler):
    keys = np.random.default_rng(4).standard_normal((KEYS, DIM), dtype=np.float32)
    folded = fold_key_query(resampler, HEADS)
    assert folded.shape == (HEADS * QUERIES, DIM)
    assert folded.dtype == np.float32
    scores = torch.tensor(folded @ keys.T).view(HEADS, QUERIES, KEYS)
    expected = torch_weights(resampler, keys)
    np.testing.assert_allclose(scores.softmax(-1).numpy(), expected, rtol=2e-4, atol=1e-7)


def test_fold_is_exact_for_bfloat16_tensors(resampler, arrays):
    """Reading half precision must not make the fold itself half precise."""
    half = arrays({name: v.astype(ml_dtypes.bfloat16) for name, v in resampler.items()})
    wide = arrays({name: v.astype(np.float32) for name, v in half.items()})
    np.testing.assert_array_equal(fold_key_query(half, HEADS), fold_key_query(wide, HEADS))


def test_key_query_of_the_published_model_has_a_row_for_each_head_and_query(published_model):
    assert key_query(published_model).shape == (32 * 64, 4096)


def test_block_of_rows_past_the_end_is_padded_with_zeros(arrays):
    values = np.arange(1, 16, dtype=np.float32).reshape(5, 3)
    source = arrays({"t": values})
    weight = load_weight(row_block("block", "t", 4, 8, 3), source, FLOAT16)
    np.testing.assert_array_equal(weight.values, [values[4], [0] * 3, [0] * 3, [0] * 3])


def test_views_of_a_tensor(arrays):
    random = np.random.default_rng(0)
    kernel, matrix, vector = random.random((4, 3, 2, 2)), random.random((3, 5)), random.random(6)
    source = arrays({"k": kernel, "m": matrix, "v": vector})
    np.testing.assert_array_equal(stored("m", 3, 5).load(source), matrix)
    flat = flattened("k", 4, 12).load(source)
    np.testing.assert_array_equal(flat, [row.ravel() for row in kernel])
    turned = transposed("m", 5, 3).load(source)
    np.testing.assert_array_equal(turned, matrix.T)
    assert turned.flags.c_contiguous
    part = vector_block("p", "v", 2, 5)
    np.testing.assert_array_equal(part.load(source), vector[2:5])
    assert part.shape == (3,)


def test_vectors_are_never_quantized(make_parameter):
    assert not make_parameter("b", np.zeros(3)).is_matrix
    assert make_parameter("w", np.zeros((3, 2))).is_matrix


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e8])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_fold_that_float16_cannot_hold_is_refused(resampler, value):
    resampler["resampler.ln_q.weight"][7] = value
    fold = key_query_of(resampler)
    with pytest.raises(InputError, match=r"resampler\.attn\.key_query\.weight contains"):
        load_weight(fold, resampler, FLOAT16)


def key_query_of(resampler):
    from export.graphs.graph import Parameter
    from export.graphs.parameters import KEY_QUERY

    return Parameter(
        KEY_QUERY, (HEADS * QUERIES, DIM), lambda source: fold_key_query(source, HEADS)
    )
