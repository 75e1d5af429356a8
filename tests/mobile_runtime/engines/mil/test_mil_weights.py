"""Compressed weights of every form, expanded whole and block by block, against definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine, products, values

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402
from coremltools.optimize.coreml import (  # noqa: E402
    OpLinearQuantizerConfig,
    OpMagnitudePrunerConfig,
    OpPalettizerConfig,
    OptimizationConfig,
    linear_quantize_weights,
    palettize_weights,
    prune_weights,
)

RNG = np.random.default_rng(4)
OUT, IN = 48, 32
X = RNG.standard_normal((3, IN)).astype(np.float16)
UINT = {
    1: types.np_uint1_dtype,
    2: types.np_uint2_dtype,
    3: types.np_uint3_dtype,
    4: types.np_uint4_dtype,
    6: types.np_uint6_dtype,
    8: np.uint8,
}


def codes(bits: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 1 << bits, shape).astype(np.uint8)


def halves(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float16)


def expand(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat each element over its block of `shape`."""
    for axis, size in enumerate(shape):
        array = np.repeat(array, size // array.shape[axis], axis)
    return array


def look_up(indices: np.ndarray, lut: np.ndarray) -> np.ndarray:
    """The definition of a palettized weight, one element at a time."""
    out = np.empty(indices.shape, np.float32)
    for place in np.ndindex(indices.shape):
        group = tuple(p * g // n for p, g, n in zip(place, lut.shape, indices.shape, strict=False))
        out[place] = lut[(*group, indices[place], 0)]
    return out


@pytest.fixture(params=["whole", "by_blocks"])
def budget(request, monkeypatch) -> int:
    """Bytes for whole expansions; without any, weights are expanded 20 rows at a time."""
    if request.param == "whole":
        return 2 << 30
    monkeypatch.setattr(values, "_ALWAYS_KEPT", 0)
    monkeypatch.setattr(values, "_BLOCK_BYTES", 20 * IN * 4)
    monkeypatch.setattr(products, "_BLOCK_BYTES", 20 * IN * 4)
    monkeypatch.setattr(products, "_ROWS", 4)
    monkeypatch.setattr(products, "_LEAST_WORK", 1)
    return 0


def run_linear(save, make_weight, budget: int, precision: str = "fp32") -> np.ndarray:
    """Apply the weight to the identity: the result is the weight itself, transposed."""
    eye = np.eye(IN, dtype=np.float16)
    package = save(lambda x: mb.linear(x=x, weight=make_weight()), {"x": eye})
    engine = MilEngine(package, precision=precision, cache_bytes=budget)
    return engine.run({"x": eye})["result_0"].T


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("groups", [(1, 1), (3, 1), (48, 1), (1, 4), (6, 2)], ids=str)
def test_palettized_weight_is_looked_up_in_its_group(bits, groups, budget, save):
    indices, lut = codes(bits, OUT, IN), halves(*groups, 1 << bits, 1)

    def weight():
        return mb.constexpr_lut_to_dense(indices=indices.astype(UINT[bits]), lut=lut)

    np.testing.assert_array_equal(run_linear(save, weight, budget), look_up(indices, lut))


def test_palettized_rows_that_do_not_fill_bytes_are_looked_up(budget, save):
    indices, lut = codes(4, 6, 5), halves(3, 1, 16, 1)
    eye = np.eye(5, dtype=np.float16)

    def build(x):
        weight = mb.constexpr_lut_to_dense(indices=indices.astype(UINT[4]), lut=lut)
        return mb.linear(x=x, weight=weight)

    engine = MilEngine(save(build, {"x": eye}), cache_bytes=budget)
    np.testing.assert_array_equal(engine.run({"x": eye})["result_0"].T, look_up(indices, lut))


@pytest.mark.parametrize("groups", [(3, 1, 1, 1), (3, 2, 1, 1)], ids=str)
def test_palettized_pointwise_conv_equals_torch(groups, budget, save):
    indices, lut = codes(4, OUT, IN, 1, 1), halves(*groups, 16, 1)
    x = halves(2, IN, 1, 5)

    def build(x):
        weight = mb.constexpr_lut_to_dense(indices=indices.astype(UINT[4]), lut=lut)
        return mb.conv(x=x, weight=weight)

    engine = MilEngine(save(build, {"x": x}), precision="fp32", cache_bytes=budget)
    dense = torch.from_numpy(look_up(indices, lut))
    expected = torch.nn.functional.conv2d(torch.from_numpy(x).float(), dense).numpy()
    np.testing.assert_allclose(engine.run({"x": x})["result_0"], expected, atol=1e-4)


@pytest.mark.parametrize("transpose_y", [False, True])
def test_palettized_matmul_weight_is_used_on_either_side(transpose_y, budget, save):
    indices, lut = codes(4, IN, IN), halves(4, 1, 16, 1)

    def build(x):
        weight = mb.constexpr_lut_to_dense(indices=indices.astype(UINT[4]), lut=lut)
        return mb.matmul(x=x, y=weight, transpose_y=transpose_y)

    engine = MilEngine(save(build, {"x": X}), precision="fp32", cache_bytes=budget)
    dense = look_up(indices, lut)
    expected = X.astype(np.float32) @ (dense.T if transpose_y else dense)
    np.testing.assert_allclose(engine.run({"x": X})["result_0"], expected, atol=1e-4)


BLOCKWISE = {
    "int4_blocks": (types.np_int4_dtype, -8, 8, (OUT, 4), False),
    "int4_offset": (types.np_int4_dtype, -8, 8, (OUT, 1), True),
    "uint4_blocks": (types.np_uint4_dtype, 0, 16, (6, 2), True),
    "int8_channels": (np.int8, -128, 128, (OUT, 1), False),
    "uint8_tensor": (np.uint8, 0, 256, (1, 1), True),
}


@pytest.mark.parametrize("case", BLOCKWISE)
def test_blockwise_weight_is_scaled_and_shifted(case, budget, save):
    dtype, low, high, blocks, has_offset = BLOCKWISE[case]
    kind = np.int8 if low < 0 else np.uint8
    data = RNG.integers(low, high, (OUT, IN)).astype(kind)
    offset = RNG.integers(low, high, blocks).astype(kind) if has_offset else None
    scale = np.abs(halves(*blocks)) + np.float16(0.01)

    def weight():
        given = {} if offset is None else {"offset": offset.astype(dtype)}
        return mb.constexpr_blockwise_shift_scale(data=data.astype(dtype), scale=scale, **given)

    shifted = data.astype(np.float32)
    if offset is not None:
        shifted = shifted - expand(offset, data.shape)
    exact = shifted * expand(scale.astype(np.float32), data.shape)
    np.testing.assert_array_equal(run_linear(save, weight, budget, "fp32"), exact)
    half = exact.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(run_linear(save, weight, budget, "fp16"), half)


def test_blockwise_weight_may_hold_a_palettized_one(budget, save):
    indices = codes(4, OUT, IN)
    lut = RNG.integers(-128, 128, (3, 1, 16, 1)).astype(np.int8)
    scale = np.full((1, 1), 0.25, np.float16)

    def weight():
        data = mb.constexpr_lut_to_dense(indices=indices.astype(UINT[4]), lut=lut)
        return mb.constexpr_blockwise_shift_scale(data=data, scale=scale)

    ours = run_linear(save, weight, budget)
    np.testing.assert_array_equal(ours, look_up(indices, lut) * 0.25)


def test_sparse_weight_is_zero_where_its_mask_is(budget, save):
    mask = codes(1, OUT, IN)
    nonzero = halves(int(mask.sum()))

    def weight():
        return mb.constexpr_sparse_to_dense(nonzero_data=nonzero, mask=mask.astype(UINT[1]))

    expected = np.zeros((OUT, IN), np.float32)
    expected[mask == 1] = nonzero
    np.testing.assert_array_equal(run_linear(save, weight, budget), expected)


def convert_linear(target) -> tuple[object, torch.nn.Module]:
    torch.manual_seed(0)
    module = torch.nn.Linear(64, 96).eval()
    traced = torch.jit.trace(module, torch.zeros(1, 64))
    model = ct.convert(
        traced,
        inputs=[ct.TensorType(name="x", shape=(4, 64), dtype=np.float16)],
        outputs=[ct.TensorType(name="y", dtype=np.float16)],
        minimum_deployment_target=target,
        skip_model_load=True,
    )
    return model, module


PALETTIZE = {
    "iOS16_tensor": (ct.target.iOS16, {"granularity": "per_tensor"}),
    "iOS18_tensor": (ct.target.iOS18, {"granularity": "per_tensor"}),
    "iOS18_groups": (
        ct.target.iOS18,
        {"granularity": "per_grouped_channel", "group_size": 16},
    ),
}


def psnr(reference: np.ndarray, ours: np.ndarray) -> float:
    rmse = np.sqrt(np.mean((reference - ours) ** 2))
    return float(20 * np.log10(np.abs(reference).max() / max(rmse, 1e-30)))


def compress(model, how, config):
    settings = OptimizationConfig(global_config=config)
    return how(model, settings)


def check_model(model, module, path: Path, floor: float, op: str) -> None:
    model.save(str(path))
    engine = MilEngine(path, precision="fp32")
    assert op in {type_of for type_of in _constexpr_types(model)}
    x = RNG.standard_normal((4, 64)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert psnr(expected, engine.run({"x": x})["y"]) > floor


def _constexpr_types(model) -> set[str]:
    functions = model.get_spec().mlProgram.functions
    blocks = [b for f in functions.values() for b in f.block_specializations.values()]
    return {o.type for block in blocks for o in block.operations}


@pytest.mark.parametrize("case", PALETTIZE)
def test_package_palettized_by_coremltools_is_close_to_the_module(case, tmp_path):
    target, options = PALETTIZE[case]
    model, module = convert_linear(target)
    config = OpPalettizerConfig(mode="uniform", nbits=8, weight_threshold=0, **options)
    small = compress(model, palettize_weights, config)
    check_model(small, module, tmp_path / "m.mlpackage", 35, "constexpr_lut_to_dense")


QUANTIZE = {
    "iOS16_int8": (ct.target.iOS16, "int8", {}, 40, "constexpr_affine_dequantize"),
    "iOS18_int8": (ct.target.iOS18, "int8", {}, 40, "constexpr_blockwise_shift_scale"),
    "iOS18_int4_blocks": (
        ct.target.iOS18,
        "int4",
        {"granularity": "per_block", "block_size": 16},
        20,
        "constexpr_blockwise_shift_scale",
    ),
    "iOS18_uint8_offset": (
        ct.target.iOS18,
        "uint8",
        {"mode": "linear"},
        40,
        "constexpr_blockwise_shift_scale",
    ),
}


@pytest.mark.parametrize("case", QUANTIZE)
def test_package_quantized_by_coremltools_is_close_to_the_module(case, tmp_path):
    target, dtype, options, floor, op = QUANTIZE[case]
    model, module = convert_linear(target)
    options = {"mode": "linear_symmetric", **options}
    config = OpLinearQuantizerConfig(dtype=dtype, weight_threshold=0, **options)
    small = compress(model, linear_quantize_weights, config)
    check_model(small, module, tmp_path / "m.mlpackage", floor, op)


@pytest.mark.parametrize("target", [ct.target.iOS16, ct.target.iOS18], ids=["iOS16", "iOS18"])
def test_package_pruned_by_coremltools_is_close_to_the_pruned_module(target, tmp_path):
    model, module = convert_linear(target)
    small = compress(
        model, prune_weights, OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=0)
    )
    with torch.no_grad():
        size = module.weight.abs()
        module.weight[size < size.flatten().sort().values[size.numel() // 2]] = 0
    # the element at the threshold may fall on either side; unpruned, this is below 25 dB
    check_model(small, module, tmp_path / "m.mlpackage", 45, "constexpr_sparse_to_dense")


def test_weights_shared_by_functions_are_expanded_once():
    kept = values.ExpandedWeights(1 << 30)
    calls = []

    def expand_weight():
        calls.append(1)
        return np.zeros(1)

    for _ in range(2):
        kept.get(("weight.bin", 64), 1 << 20, expand_weight)
    assert len(calls) == 1


def test_expansions_beyond_the_budget_are_not_kept():
    kept = values.ExpandedWeights(3 << 20)
    assert kept.get("first", 2 << 20, lambda: np.zeros(1)) is not None
    assert kept.get("second", 2 << 20, lambda: np.zeros(1)) is None
    assert kept.get("third", 1 << 20, lambda: np.zeros(1)) is not None
