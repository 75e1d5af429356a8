"""Programs without loops that would compute for days: how much they compute is known before."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.memory import Limits
from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.engines.mil.arithmetic import NumpyArithmetic
from mobile_runtime.engines.mil.budget import Budget
from mobile_runtime.engines.mil.result_sizes import multiplications_of
from mobile_runtime.errors import InputError

ct = pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")
from coremltools.converters.mil import Builder as mb  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

X = np.ones((64, 64), np.float32)
USUAL = 500 * 10**12
DONE = "with it the call does the work of"

# Arguments of an operation, and the same in PyTorch.
PRODUCTS = {
    "matmul": (
        {"x": (3, 5, 7), "y": (3, 7, 11)},
        {},
        lambda x, y: x @ y,
    ),
    "matmul transposed": (
        {"x": (3, 7, 5), "y": (3, 11, 7)},
        {"transpose_x": True, "transpose_y": True},
        lambda x, y: x.mT @ y.mT,
    ),
    "linear": ({"x": (2, 3, 7), "weight": (5, 7)}, {}, functional.linear),
    "conv": (
        {"x": (2, 6, 9, 8), "weight": (4, 3, 3, 2)},
        {"strides": [2, 1], "pad_type": "custom", "pad": [1, 1, 0, 0], "groups": 2},
        lambda x, w: functional.conv2d(x, w, stride=(2, 1), padding=(1, 0), groups=2),
    ),
    "conv_transpose": (
        {"x": (1, 4, 5, 5), "weight": (4, 3, 3, 3)},
        {"strides": [2, 2]},
        lambda x, w: functional.conv_transpose2d(x, w, stride=2),
    ),
    "scaled_dot_product_attention": (
        {"query": (1, 2, 5, 8), "key": (1, 2, 7, 8), "value": (1, 2, 7, 6)},
        {},
        lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_multiplications_are_those_that_pytorch_counts(name):
    shapes, settings, compute = PRODUCTS[name]
    arrays = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
    with FlopCounterMode(display=False) as counter:
        compute(*map(torch.from_numpy, arrays.values()))
    found = multiplications_of(name.split()[0])(arrays | settings)
    assert found == counter.get_total_flops() // 2 > 0  # it counts additions, too


def test_multiplications_of_an_einsum_and_of_a_recurrence():
    arrays = {"values": (np.ones((2, 3, 5)), np.ones((2, 5, 7))), "equation": "bij, bjk -> bik"}
    assert multiplications_of("einsum")(arrays) == 2 * 3 * 5 * 7
    weights = {"weight_ih": np.ones((16, 3)), "weight_hh": np.ones((16, 4))}
    assert multiplications_of("lstm")({"x": np.ones((6, 2, 3))} | weights) == 6 * 2 * 16 * (3 + 4)


def chain(x):
    for _ in range(40):
        x = mb.matmul(x=x, y=X / 64)
    return x


def test_many_products_in_a_row_are_stopped_and_run_with_more(save):
    """One takes 64³ multiplications, and 100 for each of its 64² results."""
    package = save(chain, {"x": X})
    one = 64**3 + 100 * 64**2
    less, enough = (Limits(work=count * one / USUAL) for count in (39.5, 41))
    with pytest.raises(InputError, match=rf"Operation '\w+': {DONE} {40 * one:,}") as caught:
        MilEngine(package, limits=less).run({"x": X})
    assert "(--work, or Limits in a program)" in str(caught.value) and "\n" not in str(caught.value)
    (result,) = MilEngine(package, precision="fp32", limits=enough).run({"x": X}).values()
    np.testing.assert_allclose(result, 1, rtol=1e-5)


def test_a_large_convolution_is_refused_before_it_computes(save):
    def build(x):
        wide = mb.tile(x=mb.reshape(x=x, shape=[1, 1, 64, 64]), reps=np.array([1, 8, 4, 4]))
        return mb.conv(x=wide, weight=np.ones((8, 8, 65, 65), np.float32), pad_type="same")

    package = save(build, {"x": X})
    made = 64 * 64 + 8 * 256**2 + 256**2 * 8 * 65**2  # reshaped, tiled, and all windows
    work = 256**2 * 8 * 8 * 65**2 + 100 * made
    with pytest.raises(InputError, match=f"{DONE} {work:,} multiplications"):
        MilEngine(package, limits=Limits(memory=64, work=1e-5)).run({"x": X})


def test_a_prompt_of_4096_tokens_in_one_call_comes_nowhere_near_the_bound():
    """All layers of the language model: 8.2 B weights, and 36 · 32 heads of 128 over all pairs."""
    budget = Budget(Limits(), (), NumpyArithmetic(half=True).memory_of)
    budget.take_work(0, 7 * (4096 * 8_200_000_000 + 36 * 32 * 2 * 128 * 4096**2))
    with pytest.raises(InputError, match=DONE):
        budget.take_work(0, USUAL)


def test_a_loop_goes_on_with_more_work(save):
    def build(x):
        return mb.while_loop(
            _cond=lambda v: mb.less(x=mb.reduce_sum(x=v), y=np.float32(64 * 300)),
            _body=lambda v: mb.add(x=v, y=np.float32(1)),
            loop_vars=(mb.slice_by_size(x=x, begin=[0, 0], size=[1, 64]),),
        )

    package = save(build, {"x": X})
    with pytest.raises(InputError, match=r"its loops go on after 655 operations or 0\.32 GB"):
        MilEngine(package, limits=Limits(work=0.01)).run({"x": X})
    (result,) = MilEngine(package, limits=Limits(work=0.1)).run({"x": X}).values()
    np.testing.assert_array_equal(result, np.full((1, 64), 300))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1e7])
@pytest.mark.parametrize("name", ["memory", "work"])
def test_what_is_no_limit_is_refused(name, value):
    with pytest.raises(InputError, match=rf"The limit of {name} is .*; give a number above 0"):
        Limits(**{name: value})
