"""Half precision: the rounding itself bit by bit, and where the engine applies it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.engines.mil.rounding import round_to_half

torch = pytest.importorskip("torch")
mb = pytest.importorskip("coremltools.converters.mil").Builder

RNG = np.random.default_rng(7)
X = RNG.standard_normal((3, 32)).astype(np.float16)


def all_halves() -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def between_halves() -> np.ndarray:
    """Each half value, the midpoint to the next, and the neighbours of that midpoint."""
    value = all_halves().astype(np.float64)
    finite = np.sort(value[np.isfinite(value)])
    with np.errstate(over="ignore"):
        middle = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
        outside = np.float32([65519.9, 65520, 65536, 1e30, np.inf, np.nan, 2**-25, 2**-26, -1e-40])
    parts = [finite.astype(np.float32), middle, np.nextafter(middle, np.float32(np.inf))]
    return np.concatenate([*parts, np.nextafter(middle, np.float32(-np.inf)), outside, -outside])


@pytest.mark.parametrize("size", [1000, None], ids=["short", "long"])
def test_rounding_to_half_equals_torch_bit_by_bit(size):
    x = between_halves()[:: 1 if size is None else 262][:size]
    with np.errstate(all="ignore"):
        ours = round_to_half(x.copy())
    expected = torch.from_numpy(x).half().float().numpy()
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(ours), nan)
    np.testing.assert_array_equal(ours.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


def test_rounding_leaves_views_of_others_alone():
    base = np.full((64, 128), 1 + 2**-13, np.float32)
    rounded = round_to_half(base[:, ::2])
    assert np.unique(rounded) == 1
    assert np.unique(base) == np.float32(1 + 2**-13)


ELEMENTWISE = {
    "add": (lambda x, y: mb.add(x=x, y=y), lambda x, y: x + y),
    "mul": (lambda x, y: mb.mul(x=x, y=y), lambda x, y: x * y),
    "real_div": (lambda x, y: mb.real_div(x=x, y=y), lambda x, y: x / y),
    "sqrt": (lambda x, y: mb.sqrt(x=mb.abs(x=x)), lambda x, y: x.abs().sqrt()),
    "square": (lambda x, y: mb.square(x=y), lambda x, y: y.square()),
    "maximum": (lambda x, y: mb.maximum(x=x, y=y), lambda x, y: torch.maximum(x, y)),
}


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_half_results_equal_torchs_half_results(op, execute):
    build, reference = ELEMENTWISE[op]
    x = (RNG.standard_normal(5000) * 10 ** RNG.uniform(-5, 4, 5000)).astype(np.float16)
    y = (RNG.standard_normal(5000) * 10 ** RNG.uniform(-5, 4, 5000)).astype(np.float16)
    ours = execute(op, build, {"x": x, "y": y}, "fp16")[0]
    expected = reference(torch.from_numpy(x), torch.from_numpy(y)).float().numpy()
    np.testing.assert_array_equal(ours, expected)


def test_half_overflow_is_infinite_and_full_precision_is_not(execute):
    x = np.float16([60000, -60000])

    def build(x):
        return mb.mul(x=x, y=np.float16(4))

    assert execute("mul", build, {"x": x}, "fp16")[0].tolist() == [math.inf, -math.inf]
    assert execute("mul", build, {"x": x}, "fp32")[0].tolist() == [240000, -240000]


def test_half_inputs_are_rounded_only_in_half_mode(execute, save):
    engine = {
        p: MilEngine(save(lambda x: mb.identity(x=x), {"x": X}), precision=p)
        for p in ("fp16", "fp32")
    }
    x = np.full(X.shape, 1 + 2**-12, np.float32)
    assert np.unique(engine["fp16"].run({"x": x})["result_0"]) == 1
    assert np.unique(engine["fp32"].run({"x": x})["result_0"]) == np.float32(1 + 2**-12)
    assert np.unique(x) == np.float32(1 + 2**-12)
