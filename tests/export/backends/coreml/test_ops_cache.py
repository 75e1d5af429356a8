"""Grouped-query attention and the key/value cache as Core ML operations, against plain PyTorch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

MASKED = np.float32(-1e4)
CONTEXT, KV_HEADS, DIM = 32, 2, 16


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def causal(position, length, keys):
    """(S, keys): row s sees the keys up to position + s."""
    visible = np.arange(keys)[None] <= position + np.arange(length)[:, None]
    return np.where(visible, np.float32(0), MASKED)


def reference(q, k, v, mask):
    """(heads, dim, S), (kv_heads, N, dim) twice, (S, N) -> (heads · dim, S)."""
    groups = len(q) // len(k)
    tq = torch.tensor(q).transpose(1, 2)
    tk, tv = (torch.tensor(x).repeat_interleave(groups, 0) for x in (k, v))
    out = functional.scaled_dot_product_attention(
        tq[None], tk[None], tv[None], attn_mask=torch.tensor(mask), scale=1.0
    )
    return out[0].transpose(1, 2).reshape(-1, q.shape[2]).numpy()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("length", "position"), [(1, 0), (1, 9), (1, 31), (4, 0), (6, 11)])
def test_grouped_attention_over_a_cache(run_body, groups, length, position):
    q = normal(0, 1, KV_HEADS * groups, DIM, length)
    k, v = normal(1, 1, KV_HEADS, CONTEXT, DIM), normal(2, 1, KV_HEADS, CONTEXT, DIM)
    mask = causal(position, length, CONTEXT)

    def body(ops, given, _):
        grouped = ops.grouped_mask(given["mask"], groups)
        return ops.grouped_attention(given["q"], [given["k"]], [given["v"]], grouped)

    inputs = {"q": q, "k": k, "v": v, "mask": mask[None, None]}
    out = run_body(body, inputs, (1, KV_HEADS * groups * DIM, 1, length))
    expected = reference(q[0], k[0], v[0], mask)
    np.testing.assert_allclose(out[0, :, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "position"), [(1, 7), (5, 0), (5, 12)])
def test_attention_over_cache_and_new_rows_equals_attention_over_both(run_body, length, position):
    """The io form: the mask has columns for the whole cache, then for the new rows."""
    groups = 3
    q = normal(0, 1, KV_HEADS * groups, DIM, length)
    old = [normal(n, 1, KV_HEADS, CONTEXT, DIM) for n in (1, 2)]
    new = [normal(n, 1, KV_HEADS, length, DIM) for n in (3, 4)]
    before = np.where(np.arange(CONTEXT) < position, np.float32(0), MASKED)
    mask = np.concatenate([np.tile(before, (length, 1)), causal(0, length, length)], axis=1)

    def body(ops, given, _):
        grouped = ops.grouped_mask(given["mask"], groups)
        keys, values = [given["k"], given["k_new"]], [given["v"], given["v_new"]]
        return ops.grouped_attention(given["q"], keys, values, grouped)

    inputs = {"q": q, "k": old[0], "v": old[1], "k_new": new[0], "v_new": new[1]}
    inputs["mask"] = mask[None, None]
    out = run_body(body, inputs, (1, KV_HEADS * groups * DIM, 1, length))
    k, v = (np.concatenate(pair, axis=2)[0] for pair in zip(old, new, strict=True))
    expected = reference(q[0], k, v, mask)
    np.testing.assert_allclose(out[0, :, 0], expected, rtol=1e-4, atol=1e-5)


def write_both(ops, given, _):
    """Keys to row 2 of the cache, values to row 3."""
    position = given["position"]
    keys = ops.write_cache(given["cache"], given["k"], 2, position)
    return [keys, ops.write_cache(given["cache"], given["v"], 3, position)]


STATE = (4, KV_HEADS, CONTEXT, DIM)
ROW = (1, *STATE[1:])


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("position", [0, 1, 13, CONTEXT - 4])
def test_write_cache_changes_its_rows_at_its_position_and_nothing_else(
    build_body, length, position
):
    k, v = normal(0, 1, KV_HEADS, length, DIM), normal(1, 1, KV_HEADS, length, DIM)
    inputs = {"k": k, "v": v, "position": np.array([position], np.int32)}
    engine = build_body(write_both, inputs, [ROW, ROW], state=STATE)
    state = engine.new_state()
    state["cache"][:] = normal(2, *STATE)
    expected = state["cache"].copy()
    expected[2, :, position : position + length] = k[0]
    expected[3, :, position : position + length] = v[0]
    outputs = engine.run(inputs, state=state)
    np.testing.assert_array_equal(state["cache"], expected)
    np.testing.assert_array_equal(outputs["out_0"], expected[2:3])
    np.testing.assert_array_equal(outputs["out_1"], expected[3:4])


def test_writes_one_after_another_fill_the_cache(build_body):
    inputs = {"k": normal(0, 1, KV_HEADS, 1, DIM), "v": normal(1, 1, KV_HEADS, 1, DIM)}
    engine = build_body(
        write_both, inputs | {"position": np.zeros(1, np.int32)}, [ROW, ROW], state=STATE
    )
    state = engine.new_state()
    rows = normal(2, CONTEXT, 1, KV_HEADS, 1, DIM)
    for n in range(CONTEXT):
        given = {"k": rows[n], "v": -rows[n], "position": np.array([n], np.int32)}
        engine.run(given, state=state)
    np.testing.assert_array_equal(state["cache"][2], rows[:, 0, :, 0].transpose(1, 0, 2))
    np.testing.assert_array_equal(state["cache"][3], -state["cache"][2])
    assert not state["cache"][:2].any()


@pytest.mark.parametrize("index", [0, 3])
def test_cache_row_is_one_row(run_body, index):
    cache = normal(0, *STATE)

    def body(ops, given, _):
        return ops.cache_row(given["given_cache"], index)

    out = run_body(body, {"given_cache": cache}, ROW)
    np.testing.assert_array_equal(out, cache[index : index + 1])


def test_stacked_rows_have_the_layout_of_a_cache(run_body):
    rows = {name: normal(n, 1, KV_HEADS, 3, DIM) for n, name in enumerate("abc")}

    def body(ops, given, _):
        return ops.stack_rows([given[name] for name in "abc"])

    out = run_body(body, rows, (3, KV_HEADS, 3, DIM))
    np.testing.assert_array_equal(out, np.concatenate(list(rows.values())))


@pytest.mark.parametrize(("length", "groups"), [(1, 4), (3, 1), (3, 4)])
def test_grouped_mask_repeats_its_rows_for_each_head_of_a_group(run_body, length, groups):
    mask = causal(2, length, 8)[None, None]
    rows = length if length == 1 else groups * length

    def body(ops, given, _):
        return ops.add(ops.grouped_mask(given["mask"], groups), given["zero"])

    zero = np.zeros((1, 1, rows, 8), np.float32)
    out = run_body(body, {"mask": mask, "zero": zero}, zero.shape)
    np.testing.assert_array_equal(out, mask if length == 1 else np.tile(mask, (1, 1, groups, 1)))
