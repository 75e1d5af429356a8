"""The graph vocabulary as ONNX operations in both profiles, executed, against plain PyTorch."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional

from export.backends.onnx.data import DataWriter
from export.backends.onnx.model import ModelBuilder, value_info
from export.backends.onnx.ops import OnnxOps, Tensor
from export.backends.onnx.profile import FAST, PORTABLE
from export.graphs.weights import load_weight
from export.quant.recipe import FLOAT16, FLOAT32, QuantSpec
from mobile_runtime.bundle import TensorSpec
from mobile_runtime.engines.onnx import OnnxEngine, SessionSettings

PROFILES = {"fast": FAST, "portable": PORTABLE}
SHAPES = [(1, 1), (1, 7), (2, 5), (2, 33)]
FORMS = {
    "dense 32": FLOAT32,
    "dense 16": FLOAT16,
    "int8 rows": QuantSpec("rows", 8),
    "int8 blocks": QuantSpec("blocks", 8, 32),
    "int4 blocks": QuantSpec("blocks", 4, 32),
    "int4 blocks of 128": QuantSpec("blocks", 4, 128),
    "int4 asymmetric": QuantSpec("blocks", 4, 32, symmetric=False),
    "int8 asymmetric": QuantSpec("blocks", 8, 32, symmetric=False),
}
PACKED = [name for name, spec in FORMS.items() if spec.form == "blocks"]
COLUMNS = 256


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.fixture(params=PROFILES)
def profile(request):
    return PROFILES[request.param]


@pytest.fixture
def build(tmp_path, arrays, make_parameter):
    """build(body, inputs, profile, …) -> an engine of one graph whose first two axes vary.

    `inputs` gives a sample of each input; `body(ops, inputs, parameters)` returns tensors, which
    the engine gives as out_0, out_1, …. Options: `weights` by name and their `specs`; `heads`
    names inputs that are heads.
    """

    def make(body, inputs, profile, weights=(), specs=None, heads=()):
        source = arrays(weights)
        parameters = {name: make_parameter(name, values) for name, values in source.items()}
        chosen = dict.fromkeys(source, FLOAT32) | (specs or {})
        builder = ModelBuilder(profile.opset)
        given = {
            name: Tensor(name, x.shape[-1], x.shape[2] if name in heads else 1)
            for name, x in inputs.items()
        }
        out = body(OnnxOps(builder, chosen, profile), given, parameters)
        for n, value in enumerate(out):
            builder.node("Identity", [value.name], outputs=[f"out_{n}"])
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        layout = builder.layout()
        with DataWriter(path, layout) as writer:
            for name in list(builder.pieces):
                builder.take(name, load_weight(parameters[name], source, chosen[name]), writer)
        types = {"f": "float32", "i": "int64"}
        described = [
            _varying(name, x.shape, types[x.dtype.kind], x.ndim - 2 if x.ndim > 2 else 0)
            for name, x in inputs.items()
        ]
        outputs = [
            value_info(
                TensorSpec(f"out_{n}", (), "float32"), [f"axis_{n}_{k}" for k in range(rank)]
            )
            for n, rank in enumerate(4 if value.heads > 1 else 3 for value in out)
        ]
        model = builder.model("one", described, outputs, builder.external(layout, path.name))
        path.write_bytes(model.SerializeToString())
        integers = any(spec.form == "rows" for spec in chosen.values())
        return OnnxEngine.load(path, SessionSettings(not profile.rounds, whole_sums=integers))

    return make


def _varying(name, shape, dtype, fixed):
    axes = [f"{name}_{n}" if n < 2 else size for n, size in enumerate(shape)]
    return value_info(TensorSpec(name, shape, dtype), axes)


def check(engine, inputs, *expected, rtol=1e-5, atol=2e-6):
    outputs = engine.run(inputs)
    assert len(outputs) == len(expected)
    for n, values in enumerate(expected):
        np.testing.assert_allclose(outputs[f"out_{n}"], np.asarray(values), rtol=rtol, atol=atol)


def relative(actual, expected):
    """Largest error as a part of the largest value."""
    return np.abs(actual - expected).max() / np.abs(expected).max()


ELEMENTWISE = {
    "add": (lambda ops, x, y: ops.add(x, y), lambda x, y: x + y),
    "multiply": (lambda ops, x, y: ops.multiply(x, y), lambda x, y: x * y),
    "silu": (lambda ops, x, y: ops.silu(x), lambda x, y: functional.silu(x)),
    "gelu_tanh": (
        lambda ops, x, y: ops.gelu_tanh(x),
        lambda x, y: functional.gelu(x, approximate="tanh"),
    ),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_operations(build, profile, name):
    ours, theirs = ELEMENTWISE[name]
    engine = build(
        lambda ops, x, _: [ours(ops, x["x"], x["y"])],
        {"x": normal(0, 1, 1, 24), "y": normal(1, 1, 1, 24)},
        profile,
    )
    for shape in SHAPES:
        x, y = 8 * normal(2, *shape, 24), normal(3, *shape, 24)
        check(engine, {"x": x, "y": y}, theirs(torch.from_numpy(x), torch.from_numpy(y)))


@pytest.mark.parametrize("size", [24, 1152])
def test_norms(build, profile, size):
    weight, bias = 1 + normal(0, size), normal(1, size)

    def body(ops, x, p):
        return [
            ops.layer_norm(x["x"], p["w"], p["b"], 1e-6),
            ops.rms_norm(x["x"], p["w"], 1e-6),
        ]

    engine = build(body, {"x": normal(2, 1, 1, size)}, profile, {"w": weight, "b": bias})
    for shape in SHAPES:
        x = 3 * normal(3, *shape, size) + 1
        x[0, 0] *= 1e-4  # so small that eps counts
        wide = torch.from_numpy(x)
        w, b = torch.from_numpy(weight), torch.from_numpy(bias)
        expected = (
            functional.layer_norm(wide, (size,), w, b, 1e-6),
            functional.rms_norm(wide, (size,), w, 1e-6),
        )
        check(engine, {"x": x}, *expected, atol=1e-5)


def test_heads_are_split_normalised_and_joined(build, profile):
    gain = 1 + normal(0, 16)

    def body(ops, x, p):
        heads = ops.heads(x["x"], 3)
        assert (heads.heads, heads.channels) == (3, 16)
        joined = ops.joined(heads)
        assert joined.channels == 48
        return [heads, ops.head_rms_norm(heads, p["w"], 1e-6), joined]

    engine = build(body, {"x": normal(1, 1, 1, 48)}, profile, {"w": gain})
    for shape in SHAPES:
        x = normal(2, *shape, 48)
        split = torch.from_numpy(x).reshape(*shape, 3, 16)
        normed = functional.rms_norm(split, (16,), torch.from_numpy(gain), 1e-6)
        check(engine, {"x": x}, split, normed, x)


def test_attention_sees_all_positions_of_its_own_view(build, profile):
    samples = {name: normal(0, 1, 1, 3, 16) for name in "qkv"}
    engine = build(
        lambda ops, x, _: [ops.attend(x["q"], x["k"], x["v"], None, 0.3)],
        samples,
        profile,
        heads="qkv",
    )
    for shape in SHAPES:
        x = {name: 2 * normal(n, *shape, 3, 16) for n, name in enumerate("qkv")}
        q, k, v = (torch.from_numpy(x[name]).transpose(1, 2) for name in "qkv")
        out = functional.scaled_dot_product_attention(q, k, v, scale=0.3)
        check(engine, x, out.transpose(1, 2).reshape(*shape, 48), rtol=1e-4, atol=1e-5)


def test_weighted_values_are_a_softmax_over_the_length(build, profile):
    heads, queries, size = 2, 5, 16
    engine = build(
        lambda ops, x, _: [ops.weighted_values(x["s"], x["v"], heads)],
        {"s": normal(0, 1, 1, heads * queries), "v": normal(1, 1, 1, size)},
        profile,
    )
    for length in (1, 7, 40):
        scores, values = 3 * normal(2, 1, length, heads * queries), normal(3, 1, length, size)
        rows = torch.from_numpy(scores).reshape(length, heads, queries).permute(1, 2, 0)
        held = torch.from_numpy(values).reshape(length, heads, size // heads).transpose(0, 1)
        out = (rows.softmax(-1) @ held).transpose(0, 1).reshape(1, queries, size)
        check(engine, {"s": scores, "v": values}, out, atol=1e-5)


def stored_weights(form, *heights):
    """Weights with outliers in the stored form, and their values."""
    weights = {f"l.{n}.weight": normal(n, rows, COLUMNS) for n, rows in enumerate(heights)}
    for values in weights.values():
        values[:, ::50] *= 6
    return weights, dict.fromkeys(weights, FORMS[form])


def dequantized(weights, specs, arrays, make_parameter):
    """What the reference multiplies with, in float64."""
    return [w.dequantize().astype(np.float64) for w in held(weights, specs, arrays, make_parameter)]


def held(weights, specs, arrays, make_parameter):
    """The weights in their storage forms."""
    source = arrays(weights)
    named = {name: make_parameter(name, values) for name, values in weights.items()}
    return [load_weight(parameter, source, specs[name]) for name, parameter in named.items()]


LAYERS = {
    "linear": (
        (40,),
        lambda ops, x, w, b: [ops.linear(x, w[0], b)],
        lambda products, b: [products[0] + b],
    ),
    "linear without bias": (
        (33,),
        lambda ops, x, w, b: [ops.linear(x, w[0])],
        lambda products, b: products,
    ),
    "linears": (
        (40, 16, 1),
        lambda ops, x, w, b: ops.linears(x, [(w[0], b), (w[1], None), (w[2], None)]),
        lambda products, b: [products[0] + b, *products[1:]],
    ),
    "stacked": (
        (40, 64, 7),
        lambda ops, x, w, b: [ops.stacked(x, w)],
        lambda products, b: [np.concatenate(products, -1)],
    ),
    "stacked from one": (
        (40,),
        lambda ops, x, w, b: [ops.stacked(x, w)],
        lambda products, b: products,
    ),
}


def build_layers(build, layers, form, profile):
    heights, ours, _ = LAYERS[layers]
    weights, specs = stored_weights(form, *heights)
    bias = normal(9, 40)

    def body(ops, x, p):
        return ours(ops, x["x"], [p[name] for name in weights], p["b"])

    used = weights | {"b": bias}
    engine = build(body, {"x": normal(8, 1, 1, COLUMNS)}, profile, used, specs)
    return engine, weights, specs, bias


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", LAYERS)
def test_products_with_stored_weights_are_exact_where_that_is_wanted(
    build, profile, layers, form, arrays, make_parameter
):
    engine, weights, specs, bias = build_layers(build, layers, form, profile.full_precision)
    wide = dequantized(weights, specs, arrays, make_parameter)
    for shape in SHAPES:
        x = normal(7, *shape, COLUMNS)
        x[..., 3] *= 50  # an outlier, which 8 bits would round the others by
        products = [x.astype(np.float64) @ weight.T for weight in wide]
        expected = LAYERS[layers][2](products, bias)
        outputs = engine.run({"x": x})
        for n, values in enumerate(expected):
            assert outputs[f"out_{n}"].shape == values.shape
            assert relative(outputs[f"out_{n}"], values) <= 1e-5


def rounding_bound(x, weight, block, levels):
    """Largest error of x · weightᵀ when every `block` values of x are rounded to whole steps of a
    range of `levels`: each is off by half a step."""
    blocks = np.abs(x.astype(np.float64)).reshape(*x.shape[:-1], -1, block)
    step = 2 * blocks.max(-1, keepdims=True) / levels
    half = np.broadcast_to(step / 2, blocks.shape).reshape(x.shape)
    return half @ np.abs(weight).T


@pytest.mark.parametrize("form", [*PACKED, "int8 rows"])
@pytest.mark.parametrize("layers", ["linear without bias", "stacked from one"])
def test_fast_products_round_activations_to_eight_bits_and_no_further(
    build, profile, layers, form, arrays, make_parameter
):
    """Activations become integers −127 … 127 by blocks of the weight's (those of 8 bits by rows in
    255 steps of their row's range). What multiplies them is a weight without its offset."""
    engine, weights, specs, _ = build_layers(build, layers, form, profile)
    (weight,) = held(weights, specs, arrays, make_parameter)
    wide = weight.dequantize().astype(np.float64)
    centred = replace(weight, offset=None).dequantize().astype(np.float64)
    rounded = False
    for shape in SHAPES:
        x = normal(7, *shape, COLUMNS)
        x *= np.logspace(-2, 2, shape[-1], dtype=np.float32)[:, None]
        exact = x.astype(np.float64) @ wide.T
        error = np.abs(engine.run({"x": x})["out_0"] - exact)
        if form == "int8 rows":
            step = 2 * np.abs(x).max(-1, keepdims=True) / 255
            # The zero point is rounded, too.
            bound = np.broadcast_to(step, x.shape) @ np.abs(wide).T
        else:
            bound = rounding_bound(x, centred, specs[next(iter(specs))].group_size, 254)
        largest = np.abs(exact).max(-1, keepdims=True)
        assert (error <= bound * 1.01 + 1e-5 * largest).all()
        rounded |= bool(error.max() > 1e-5 * np.abs(exact).max())
    assert rounded, "float32 activations are slower"


def test_rows_of_zeros_stay_zeros(build, profile):
    engine, *_ = build_layers(build, "linear without bias", "int8 rows", profile)
    x = normal(7, 1, 3, COLUMNS)
    x[:, 1] = 0
    out = engine.run({"x": x})["out_0"]
    assert np.isfinite(out).all() and not out[:, 1].any() and out[:, 2].any()


@pytest.mark.parametrize("form", ["dense 32", "dense 16", "int8 rows"])
@pytest.mark.parametrize("heights", [(50,), (32, 18)])
def test_rows_of_a_table_in_pieces(build, profile, form, heights, arrays, make_parameter):
    weights, specs = stored_weights(form, *heights)
    engine = build(
        lambda ops, x, p: [ops.rows_of([p[name] for name in weights], x["ids"])],
        {"ids": np.zeros((1, 1), np.int64)},
        profile,
        weights,
        specs,
    )
    wide = np.concatenate(dequantized(weights, specs, arrays, make_parameter))
    for shape in SHAPES:
        ids = np.random.default_rng(0).integers(0, 50, shape)
        check(engine, {"ids": ids}, wide[ids], rtol=1e-7, atol=0)


def test_weights_of_one_input_are_one_matrix_in_the_fast_profile(build, tmp_path):
    build_layers(build, "linears", "int4 blocks", FAST)
    (path,) = tmp_path.glob("*.onnx")
    kinds = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    assert kinds.count("MatMulNBits") == 1 and kinds.count("Split") == 1


@pytest.mark.parametrize("bits", [4, 8])
def test_products_with_offsets_round_nothing(build, profile, bits):
    """Blocks of one value each are nothing but offset."""
    blocks = normal(0, 40, COLUMNS // 32).repeat(32, axis=1)
    engine = build(
        lambda ops, x, p: [ops.linear(x["x"], p["w"])],
        {"x": normal(1, 1, 1, COLUMNS)},
        profile,
        {"w": blocks},
        {"w": QuantSpec("blocks", bits, 32, symmetric=False)},
    )
    for shape in SHAPES:
        x = normal(2, *shape, COLUMNS)
        exact = x.astype(np.float64) @ blocks.T
        assert relative(engine.run({"x": x})["out_0"], exact) <= 1e-6


def test_sums_of_an_activation_by_blocks_are_made_once(build, profile, tmp_path):
    build_layers(build, "linears", "int4 asymmetric", profile)
    (path,) = tmp_path.glob("*.onnx")
    kinds = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    assert kinds.count("ReduceSum") == 1


def test_the_portable_profile_is_standard_and_known_to_this_runtime(build, tmp_path):
    build_layers(build, "linears", "int4 asymmetric", PORTABLE)
    (path,) = tmp_path.glob("*.onnx")
    model = onnx.load(path, load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 24)]
    onnx.checker.check_model(str(path), full_check=True)
    assert onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
