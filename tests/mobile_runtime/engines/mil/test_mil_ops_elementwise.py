"""Elementwise operations and activations against coremltools' value inference and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
mb = pytest.importorskip("coremltools.converters.mil").Builder

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Y = RNG.standard_normal((3, 1)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
UNIT = np.clip(X / 4, -0.9, 0.9)
INTS = np.array([[-7, -3, 0], [2, 5, 9]], np.int32)
DIVISORS = np.array([3, -2, 4], np.int32)

BINARY = {
    "add": (X, Y),
    "sub": (X, Y),
    "mul": (X, Y),
    "real_div": (X, Y),
    "floor_div": (X, Y),
    "mod": (X, Y),
    "pow": (POSITIVE, Y),
    "maximum": (X, Y),
    "minimum": (X, Y),
    "equal": (INTS, np.array([2, 5, 0], np.int32)),
    "not_equal": (INTS, np.array([2, 5, 0], np.int32)),
    "less": (X, Y),
    "less_equal": (INTS, np.array([2, 5, 0], np.int32)),
    "greater": (X, Y),
    "greater_equal": (INTS, np.array([2, 5, 0], np.int32)),
}
UNARY = {
    **dict.fromkeys(
        "abs atan ceil cos cosh erf exp exp2 floor inverse relu relu6 round sigmoid sign sin sinh "
        "softplus softsign square tan tanh".split(),
        X,
    ),
    **dict.fromkeys("log rsqrt sqrt".split(), POSITIVE),
    **dict.fromkeys("acos asin atanh".split(), UNIT),
}
CHANNELS = np.array([0.1, 0.5, 0.9], np.float32)
PARAMETRIC = {
    "clip": {"alpha": -0.5, "beta": 0.7},
    "threshold": {"alpha": 0.2},
    "clamped_relu": {"alpha": 0.3, "beta": 0.8},
    "thresholded_relu": {"alpha": 0.4},
    "leaky_relu": {"alpha": 0.2},
    "prelu": {"alpha": CHANNELS},
    "elu": {"alpha": 0.7},
    "linear_activation": {"alpha": 2.0, "beta": 0.5},
    "scaled_tanh": {"alpha": 2.0, "beta": 0.5},
    "sigmoid_hard": {"alpha": 0.3, "beta": 0.5},
    "softplus_parametric": {"alpha": CHANNELS, "beta": CHANNELS + 1},
}


def assert_same(ours: list, expected: list, tolerance: float = 2e-6) -> None:
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("op", BINARY)
def test_binary_operation_equals_value_inference(op, execute, inferred):
    def build(x, y):
        return getattr(mb, op)(x=x, y=y)

    inputs = dict(zip("xy", BINARY[op], strict=True))
    assert_same(execute(op, build, inputs), inferred(build, inputs))


@pytest.mark.parametrize("op", ["add", "sub", "mul", "floor_div", "mod", "real_div", "maximum"])
def test_binary_operation_on_integers_equals_value_inference(op, execute, inferred):
    def build(x, y):
        return getattr(mb, op)(x=x, y=y)

    inputs = {"x": INTS, "y": DIVISORS}
    ours = execute(op, build, inputs)
    assert_same(ours, [np.trunc(v) for v in inferred(build, inputs)])


@pytest.mark.parametrize("op", ["logical_and", "logical_or", "logical_xor"])
def test_logical_operation_follows_its_truth_table(op, execute):
    inputs = {
        "x": np.array([0, 0, 1, 1], np.int32),
        "y": np.array([0, 1, 0, 1], np.int32),
    }

    def build(x, y):
        return getattr(mb, op)(x=mb.cast(x=x, dtype="bool"), y=mb.cast(x=y, dtype="bool"))

    table = {
        "logical_and": [0, 0, 0, 1],
        "logical_or": [0, 1, 1, 1],
        "logical_xor": [0, 1, 1, 0],
    }
    assert execute(op, build, inputs)[0].tolist() == table[op]


def test_logical_not_inverts(execute):
    def build(x):
        return mb.logical_not(x=mb.cast(x=x, dtype="bool"))

    assert execute("logical_not", build, {"x": np.array([0, 2], np.int32)})[0].tolist() == [1, 0]


@pytest.mark.parametrize("op", UNARY)
def test_unary_operation_equals_value_inference(op, execute, inferred):
    def build(x):
        return getattr(mb, op)(x=x)

    inputs = {"x": UNARY[op]}
    assert_same(execute(op, build, inputs), inferred(build, inputs))


@pytest.mark.parametrize("op", PARAMETRIC)
def test_parametric_operation_equals_value_inference(op, execute, inferred):
    def build(x):
        return getattr(mb, op)(x=x, **PARAMETRIC[op])

    x = X[..., None]
    assert_same(execute(op, build, {"x": x}), inferred(build, {"x": x.copy()}))


def test_erf_is_accurate_over_its_whole_range(execute):
    x = np.concatenate([np.linspace(-6, 6, 20_001), [0, -0.0, np.inf, -np.inf, 1e-30]])
    x = x.astype(np.float32)
    ours = execute("erf", lambda x: mb.erf(x=x), {"x": x})[0]
    expected = torch.erf(torch.from_numpy(x).double()).numpy()
    assert np.abs(ours - expected).max() < 1.5e-7


def test_erf_of_nan_is_nan(execute):
    assert np.isnan(execute("erf", lambda x: mb.erf(x=x), {"x": np.float32([np.nan])})[0]).all()


@pytest.mark.parametrize(
    ("mode", "approximate"), [("EXACT", "none"), ("TANH_APPROXIMATION", "tanh")]
)
def test_gelu_equals_torch(mode, approximate, execute):
    x = np.linspace(-8, 8, 4001).astype(np.float32)
    ours = execute("gelu", lambda x: mb.gelu(x=x, mode=mode), {"x": x})[0]
    expected = torch.nn.functional.gelu(torch.from_numpy(x), approximate=approximate).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_gelu_sigmoid_approximation_equals_its_formula(execute):
    ours = execute("gelu", lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), {"x": X})[0]
    expected = X * torch.sigmoid(torch.from_numpy(1.702 * X)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_silu_equals_torch_even_where_exp_overflows(execute):
    x = np.array([-200, -88, -3, 0, 3, 200], np.float32)
    ours = execute("silu", lambda x: mb.silu(x=x), {"x": x})[0]
    np.testing.assert_allclose(
        ours, torch.nn.functional.silu(torch.from_numpy(x)).numpy(), rtol=1e-6, atol=1e-30
    )


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax_equals_torch(axis, execute):
    x = X * 50
    ours = execute("softmax", lambda x: mb.softmax(x=x, axis=axis), {"x": x})[0]
    np.testing.assert_allclose(ours, torch.softmax(torch.from_numpy(x), axis).numpy(), atol=1e-6)


def test_softmax_of_masked_row_ignores_the_mask_value(execute):
    x = np.array([[1, 2, -1e4, -1e4]], np.float32)
    ours = execute("softmax", lambda x: mb.softmax(x=x, axis=-1), {"x": x})[0]
    assert ours[0, 2:].tolist() == [0, 0]
    assert ours.sum() == pytest.approx(1)


def test_select_broadcasts_its_condition(execute):
    def build(c, x):
        return mb.select(cond=mb.cast(x=c, dtype="bool"), a=x, b=mb.mul(x=x, y=np.float32(0)))

    keep = np.array([[[1, 0, 1, 0]]], np.int32) * np.ones((2, 3, 1), np.int32)
    ours = execute("select", build, {"c": keep, "x": X})[0]
    np.testing.assert_array_equal(ours, X * keep)


def test_cast_to_integer_truncates_towards_zero(execute):
    x = np.array([-1.7, -0.2, 0.9, 2.5], np.float32)
    ours = execute("cast", lambda x: mb.cast(x=x, dtype="int32"), {"x": x})[0]
    assert ours.tolist() == [-1, 0, 0, 2]


def test_cast_to_half_is_kept_in_full_by_fp32_and_rounded_by_fp16(execute):
    x = np.array([1 + 2**-12, 70000], np.float32)

    def build(x):
        return mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="fp32")

    np.testing.assert_array_equal(execute("cast", build, {"x": x}, "fp32")[0], x)
    np.testing.assert_array_equal(execute("cast", build, {"x": x}, "fp16")[0], [1, np.inf])
