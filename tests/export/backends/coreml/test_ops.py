"""The graph vocabulary as Core ML operations, saved and executed, against plain PyTorch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from export.backends.coreml.ops import split_scale
from export.quant.affine import quantize_affine
from export.quant.kmeans import palettize
from export.quant.recipe import QuantSpec

MASKED = np.float32(-1e4)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def half(values):
    """Values that float16 holds, so that stored weights are the ones of the reference."""
    return np.asarray(values, np.float16).astype(np.float32)


def close(actual, expected, rtol=1e-4, atol=1e-5):
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=rtol, atol=atol)


@pytest.mark.parametrize("dim", [*range(32, 129), 4, 256, 1152])
def test_split_scale_is_accurate_to_2_to_the_minus_20(dim):
    first, second = split_scale(dim**-0.5)
    assert first.dtype == second.dtype == np.float16
    error = abs(float(first) * float(second) - dim**-0.5)
    assert error < 2**-20
    assert error * dim**0.5 < 2**-18  # of the scale itself; one float16 is off by up to 2⁻¹²


@pytest.mark.parametrize("dim", [4, 16, 64, 256])
def test_split_scale_leaves_keys_alone_where_one_factor_is_exact(dim):
    assert split_scale(dim**-0.5) == (np.float16(dim**-0.5), 1)


@pytest.mark.parametrize("dim", [32, 64, 72, 128])
def test_scaled_queries_and_keys_give_scaled_products(run_body, dim):
    q, k = normal(0, 1, 2, dim, 3), normal(1, 1, 2, dim, 3)

    def body(ops, x, _):
        return ops.multiply(*ops.scaled(x["q"], x["k"], dim**-0.5))

    out = run_body(body, {"q": q, "k": k}, q.shape)
    close(out, q * k * dim**-0.5, rtol=3e-6, atol=1e-9)


@pytest.mark.parametrize("length", [1, 5])
def test_linear_with_and_without_bias(run_body, length):
    x, weight, bias = normal(0, 1, 24, 1, length), half(normal(1, 32, 24)), half(normal(2, 32))
    expected = (weight @ x[0, :, 0])[None, :, None]

    def with_bias(ops, given, p):
        return ops.linear(given["x"], p["w"], p["b"])

    def without(ops, given, p):
        return ops.linear(given["x"], p["w"])

    close(run_body(without, {"x": x}, (1, 32, 1, length), {"w": weight}), expected)
    out = run_body(with_bias, {"x": x}, (1, 32, 1, length), {"w": weight, "b": bias})
    close(out, expected + bias[None, :, None, None])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("group", [1, 4, 16])
def test_linear_with_a_lookup_table_computes_with_the_tables_values(run_body, bits, group):
    x, weight = normal(0, 1, 9, 1, 2), normal(1, 16, 9)
    stored = palettize(weight, bits=bits, group_size=group, name="w").dequantize()
    spec = {"w": QuantSpec("lut", bits, group)}

    def body(ops, given, p):
        return ops.linear(given["x"], p["w"])

    out = run_body(body, {"x": x}, (1, 16, 1, 2), {"w": weight}, specs=spec)
    close(out, (stored @ x[0, :, 0])[None, :, None])


def test_linear_with_affine_integers_computes_with_their_values(run_body):
    x, weight = normal(0, 1, 9, 1, 2), normal(1, 16, 9)
    stored = quantize_affine(weight, bits=8, name="w").dequantize()
    spec = {"w": QuantSpec("rows", 8)}

    def body(ops, given, p):
        return ops.linear(given["x"], p["w"])

    out = run_body(body, {"x": x}, (1, 16, 1, 2), {"w": weight}, specs=spec)
    close(out, (stored @ x[0, :, 0])[None, :, None])


@pytest.mark.parametrize(
    ("operation", "reference"),
    [
        ("silu", functional.silu),
        ("gelu_tanh", lambda x: functional.gelu(x, approximate="tanh")),
    ],
)
def test_activations(run_body, operation, reference):
    x = np.linspace(-12, 12, 481, dtype=np.float32).reshape(1, 1, 1, 481)

    def body(ops, given, _):
        return getattr(ops, operation)(given["x"])

    close(run_body(body, {"x": x}, x.shape), reference(torch.tensor(x)), atol=2e-6)


def test_sum_and_product(run_body):
    x, y = normal(0, 1, 3, 1, 2), normal(1, 1, 3, 1, 2)

    def body(ops, given, _):
        return ops.multiply(ops.add(given["x"], given["y"]), given["y"])

    close(run_body(body, {"x": x, "y": y}, x.shape), (x + y) * y)


def test_layer_norm_is_over_the_channels(run_body):
    x, weight, bias = 3 + normal(0, 1, 64, 1, 5), half(normal(1, 64)), half(normal(2, 64))

    def body(ops, given, p):
        return ops.layer_norm(given["x"], p["w"], p["b"], 1e-6)

    rows = torch.tensor(x[0, :, 0].T)
    expected = functional.layer_norm(rows, (64,), torch.tensor(weight), torch.tensor(bias), 1e-6)
    out = run_body(body, {"x": x}, x.shape, {"w": weight, "b": bias})
    close(out[0, :, 0].T, expected, atol=1e-4)


def rms_reference(x, weight, eps, axis):
    """x / sqrt(mean(x²) + eps) · weight in float64."""
    x = x.astype(np.float64)
    shape = [1] * x.ndim
    shape[axis] = -1
    mean = np.square(x).mean(axis, keepdims=True)
    return x / np.sqrt(mean + eps) * weight.reshape(shape)


def rms_body(ops, given, p):
    return ops.rms_norm(given["x"], p["w"], 1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("length", [1, 7])
def test_rms_norm(run_body, precision, length):
    x, weight = half(normal(0, 1, 96, 1, length)), half(1 + 0.1 * normal(1, 96))
    out = run_body(rms_body, {"x": x}, x.shape, {"w": weight}, precision=precision)
    tolerance = 1e-5 if precision == "fp32" else 2e-3
    close(out, rms_reference(x, weight, 1e-6, 1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rms_norm_of_tiny_values_keeps_epsilon(run_body, precision):
    """At magnitude 1e-4 the variance is a hundredth of eps; Core ML holds eps in float16, which is
    1.3 % more, hence 0.7 % less in the result."""
    x, weight = half(1e-4 * normal(0, 1, 96, 1, 3)), np.ones(96, np.float32)
    out = run_body(rms_body, {"x": x}, x.shape, {"w": weight}, precision=precision)
    tolerance = 1e-4 if precision == "fp32" else 3e-3
    stored = float(np.float16(1e-6))
    close(out, rms_reference(x, weight, stored, 1), rtol=tolerance, atol=tolerance)
    close(out, rms_reference(x, weight, 1e-6, 1), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_rms_norm_of_huge_values_does_not_overflow_in_float16(run_body, scale):
    x, weight = half(scale * normal(0, 1, 96, 1, 3)), half(1 + 0.1 * normal(1, 96))
    assert np.square(x).max() > np.finfo(np.float16).max
    assert np.isfinite(x).all()
    out = run_body(rms_body, {"x": x}, x.shape, {"w": weight}, precision="fp16")
    close(out, rms_reference(x, weight, 1e-6, 1), rtol=3e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("magnitude", [1e-5, 1e-4, 1.0, 3e4])
def test_rms_norm_keeps_an_epsilon_that_float16_does_not_hold(run_body, precision, magnitude):
    """1e-6 / 16² rounds to 0 in float16; rows of zeros stay zeros."""
    eps = 1e-6 / 256
    assert np.float16(eps) == 0
    x = np.concatenate([normal(0, 1, 96, 1, 3), np.zeros((1, 96, 1, 1), np.float32)], axis=3)
    x, weight = half(magnitude * np.clip(x, -2, 2)), half(1 + 0.1 * normal(1, 96))

    def body(ops, given, p):
        return ops.rms_norm(given["x"], p["w"], eps)

    out = run_body(body, {"x": x}, x.shape, {"w": weight}, precision=precision)
    expected = rms_reference(x, weight, eps, 1)
    close(out, expected, rtol=1e-3 if precision == "fp32" else 2e-3, atol=1e-4)
    np.testing.assert_array_equal(out[..., 3], 0)


def test_rms_norm_of_zeros_is_zero(run_body):
    x = np.zeros((1, 96, 1, 2), np.float32)
    out = run_body(rms_body, {"x": x}, x.shape, {"w": np.ones(96, np.float32)}, precision="fp16")
    np.testing.assert_array_equal(out, x)


def test_head_rms_norm_is_over_each_head(run_body):
    x, weight = normal(0, 1, 3, 64, 5), half(1 + 0.1 * normal(1, 64))
    x[:, 1] *= 100

    def body(ops, given, p):
        return ops.head_rms_norm(given["x"], p["w"], 1e-6)

    out = run_body(body, {"x": x}, x.shape, {"w": weight})
    close(out, rms_reference(x, weight, 1e-6, 2), rtol=1e-5, atol=1e-5)


def test_channels_are_split_into_heads_in_order(run_body):
    x = normal(0, 1, 12, 1, 4)
    out = run_body(lambda ops, given, _: ops.heads(given["x"], 3), {"x": x}, (1, 3, 4, 4))
    for head in range(3):
        np.testing.assert_array_equal(out[0, head], x[0, 4 * head : 4 * head + 4, 0])


@pytest.mark.parametrize("length", [1, 4])
def test_rows_are_heads_transposed(run_body, length):
    x = normal(0, 1, 3, 8, length)
    out = run_body(lambda ops, given, _: ops.to_rows(given["x"]), {"x": x}, (1, 3, length, 8))
    np.testing.assert_array_equal(out, x.transpose(0, 1, 3, 2))


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("dim", [4, 64])
def test_rope_turns_pairs_of_halves_in_the_plane(run_body, length, dim):
    """Value m and value m + dim/2 are the parts of a complex number that is turned."""
    x, half_dim = normal(0, 1, 2, dim, length), dim // 2
    angles = normal(1, half_dim, length) * 3
    turned = (x[:, :, :half_dim] + 1j * x[:, :, half_dim:]) * np.exp(1j * angles)
    cos, sin = (np.tile(f(angles), (2, 1))[None, None] for f in (np.cos, np.sin))

    def body(ops, given, _):
        return ops.rope(given["x"], given["cos"], given["sin"])

    out = run_body(body, {"x": x, "cos": cos, "sin": sin}, x.shape)
    close(out, np.concatenate([turned.real, turned.imag], axis=2))


def test_attention_over_masked_patches(run_body):
    q, k, v = (normal(n, 1, 2, 8, 6) for n in range(3))
    mask = np.zeros((1, 1, 1, 6), np.float32)
    mask[..., 4:] = MASKED

    def body(ops, given, _):
        return ops.attend(given["q"], given["k"], given["v"], given["mask"], 0.3)

    out = run_body(body, {"q": q, "k": k, "v": v, "mask": mask}, (1, 16, 1, 6))
    tq, tk, tv = (torch.tensor(x).transpose(2, 3) for x in (q, k[..., :4], v[..., :4]))
    expected = functional.scaled_dot_product_attention(tq, tk, tv, scale=0.3)
    close(out[0, :, 0], expected[0].transpose(1, 2).reshape(16, 6))


def test_weighted_values_of_scores_by_head_and_query(run_body):
    scores, values = normal(0, 1, 3 * 5, 1, 7), normal(1, 1, 3 * 4, 1, 7)

    def body(ops, given, _):
        return ops.weighted_values(given["s"], given["v"], 3)

    out = run_body(body, {"s": scores, "v": values}, (1, 12, 1, 5))
    weights = torch.tensor(scores).view(3, 5, 7).softmax(-1)
    expected = torch.einsum("hqn,hdn->hdq", weights, torch.tensor(values).view(3, 4, 7))
    close(out[0, :, 0], expected.reshape(12, 5))
