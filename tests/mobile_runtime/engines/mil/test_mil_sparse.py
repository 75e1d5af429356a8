"""Palettes of vectors, and weights that are sparse and compressed at once, against coremltools' own
decompression."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine, values

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry  # noqa: E402
from coremltools.optimize.coreml import decompress_weights  # noqa: E402

RNG = np.random.default_rng(6)
OUT, IN = 24, 16
UINT = {1: types.np_uint1_dtype, 2: types.np_uint2_dtype, 4: types.np_uint4_dtype, 8: np.uint8}


def codes(bits, *shape):
    return RNG.integers(0, 1 << bits, shape).astype(np.uint8).astype(UINT[bits])


def halves(*shape):
    return RNG.standard_normal(shape).astype(np.float16)


def decompress(operation, *inputs):
    """What coremltools' definition of the operation makes of its inputs."""
    return SSAOpRegistry.core_ops[operation][ct.target.iOS18].decompress(*inputs)


@pytest.fixture(params=["whole", "by_blocks"])
def run_weight(request, monkeypatch, save):
    """run_weight(make) -> the weight (OUT, IN): the result of a linear layer for the identity.
    Weights are expanded whole, or 5 rows at a time."""
    budget = 2 << 30
    if request.param == "by_blocks":
        monkeypatch.setattr(values, "_ALWAYS_KEPT", 0)
        monkeypatch.setattr(values, "_BLOCK_BYTES", 5 * IN * 4)
        budget = 0

    def run(make, dtype=np.float16):
        eye = np.eye(IN, dtype=dtype)
        package = save(lambda x: mb.linear(x=x, weight=make()), {"x": eye})
        engine = MilEngine(package, precision="fp32", cache_bytes=budget)
        return engine.run({"x": eye})["result_0"].T

    return run


VECTORS = {
    "rows": (0, 4, (1, 1)),
    "rows in groups": (0, 2, (3, 1)),
    "columns": (1, 2, (1, 1)),
    "last axis": (-1, 4, (6, 1)),
    "groups along both": (1, 2, (4, 4)),
}


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("case", VECTORS)
def test_a_palette_of_vectors_is_laid_along_its_axis(case, bits, run_weight):
    axis, size, groups = VECTORS[case]
    shape = [OUT, IN]
    shape[axis] //= size
    indices, lut = codes(bits, *shape), halves(*groups, 1 << bits, size)
    expected = decompress("constexpr_lut_to_dense", indices.astype(np.uint8), lut, axis)

    def weight():
        return mb.constexpr_lut_to_dense(indices=indices, lut=lut, vector_axis=np.int32(axis))

    np.testing.assert_array_equal(run_weight(weight), expected)


def mask_of(*shape):
    return (RNG.random(shape) < 0.4).astype(np.uint8)


SPARSE = {"scalars": (None, 1, (1, 1)), "groups": (None, 1, (6, 4)), "vectors": (0, 2, (3, 1))}


@pytest.mark.parametrize("case", SPARSE)
def test_a_sparse_palette_is_looked_up_where_its_mask_is_one(case, run_weight):
    axis, size, groups = SPARSE[case]
    mask = mask_of(OUT // size, IN)
    indices, lut = codes(4, int(mask.sum())), halves(*groups, 16, size)
    whole, nonzero = decompress(
        "constexpr_lut_to_sparse", mask, indices.astype(np.uint8), lut, axis
    )
    expected = decompress("constexpr_sparse_to_dense", nonzero, whole)

    def weight():
        vectors = {} if axis is None else {"vector_axis": np.int32(axis)}
        looked_up, values = mb.constexpr_lut_to_sparse(
            indices_mask=mask.astype(UINT[1]), indices_nonzero_data=indices, lut=lut, **vectors
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=looked_up)

    np.testing.assert_array_equal(run_weight(weight), expected)


@pytest.mark.parametrize("blocks", [(1, 1), (OUT, 1), (6, 4)], ids=str)
@pytest.mark.parametrize("offset", [False, True])
def test_a_sparse_weight_is_scaled_by_the_block_it_lies_in(blocks, offset, run_weight):
    mask, scale = mask_of(OUT, IN), np.abs(RNG.standard_normal(blocks)).astype(np.float32)
    data = RNG.integers(-128, 128, int(mask.sum())).astype(np.int8)
    shift = RNG.integers(-128, 128, blocks).astype(np.int8) if offset else None
    _, nonzero = decompress("constexpr_sparse_blockwise_shift_scale", mask, data, scale, shift)
    expected = decompress("constexpr_sparse_to_dense", nonzero, mask)

    def weight():
        shifts = {} if shift is None else {"offset": shift}
        scaled, values = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask.astype(UINT[1]), nonzero_data=data, scale=scale, **shifts
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=scaled)

    np.testing.assert_array_equal(run_weight(weight, np.float32), expected)


def test_a_mask_of_another_shape_is_a_sentence(save):
    mask = mask_of(OUT, IN)
    other = mask.reshape(IN, OUT)

    def build(x):
        _, values = mb.constexpr_lut_to_sparse(
            indices_mask=mask.astype(UINT[1]),
            indices_nonzero_data=codes(4, int(mask.sum())),
            lut=halves(1, 1, 16, 1),
        )
        weight = mb.constexpr_sparse_to_dense(nonzero_data=values, mask=other.astype(UINT[1]))
        return mb.matmul(x=x, y=weight)

    with pytest.raises(ValueError, match=r"mask of shape \(16, 24\) and values for \(24, 16\)"):
        MilEngine(save(build, {"x": halves(2, IN)}))


SINGLES = {
    "blockwise": lambda: mb.constexpr_blockwise_shift_scale(
        data=RNG.integers(-128, 128, (OUT, IN)).astype(np.int8),
        scale=np.abs(RNG.standard_normal((OUT, 1))).astype(np.float32),
    ),
    "scaled palette": lambda: mb.constexpr_blockwise_shift_scale(
        data=mb.constexpr_lut_to_dense(
            indices=codes(4, OUT, IN), lut=RNG.integers(-128, 128, (1, 1, 16, 1)).astype(np.int8)
        ),
        scale=np.abs(RNG.standard_normal((OUT, 1))).astype(np.float32),
    ),
}


@pytest.mark.parametrize("case", SINGLES)
def test_weights_declared_in_single_precision_are_not_rounded(case, save, tmp_path):
    """In "fp16" only what the program declares half is; coremltools expands them exactly."""
    eye = np.eye(IN, dtype=np.float32)
    package = save(lambda x: mb.linear(x=x, weight=SINGLES[case]()), {"x": eye})
    dense = decompress_weights(ct.models.MLModel(str(package), skip_model_load=True))
    dense.save(str(tmp_path / "dense.mlpackage"))
    expected = MilEngine(tmp_path / "dense.mlpackage", precision="fp32").run({"x": eye})
    found = MilEngine(package, precision="fp16").run({"x": eye})["result_0"]
    np.testing.assert_array_equal(found, expected["result_0"])
    assert (found != found.astype(np.float16)).any()
