"""Programs that ask for any amount of memory or time, and programs that break the rules."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest

from mobile_runtime.engines.memory import Limits
from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.engines.mil.result_sizes import measure_of
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.schema import Model
from tests.fuzz.edits import draw_message, edit_message

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402

MODEL = "Data/com.apple.CoreML/model.mlmodel"
BUDGET = 4 << 20  # bytes
SMALL = Limits(memory=BUDGET / (1 << 30))
X = np.ones((1, 64), np.float32)
LARGE = np.array([64, 64], np.int32)  # with X: 64 · 64 · 64 elements, twice the budget and more


def doubled(x):
    for _ in range(16):
        x = mb.concat(values=[x, x], axis=1)
    return x


def kept_alive(x):
    """Each value is small, all of them together are not."""
    values = [mb.tile(x=x, reps=np.array([1, 900], np.int32)) for _ in range(40)]
    total = values[0]
    for value in values[1:]:
        total = mb.add(x=total, y=value)
    return total


def outer(x):
    column = mb.reshape(x=mb.tile(x=x, reps=np.array([1, 64], np.int32)), shape=[4096, 1])
    return mb.add(x=column, y=mb.reshape(x=column, shape=[1, 4096]))


def product(x):
    column = mb.reshape(x=mb.tile(x=x, reps=np.array([1, 64], np.int32)), shape=[4096, 1])
    return mb.matmul(x=column, y=mb.reshape(x=column, shape=[1, 4096]))


def by_value(x):
    """An integer input decides: nothing in the program says how much it is."""
    return mb.cast(x=mb.reduce_sum(x=x, axes=[0, 1]), dtype="int32")


def listed(x, count):
    """A list of `count` copies of x: one value, and as much memory as all of them."""
    ls = mb.make_list(init_length=count, elem_shape=x.shape)
    for n in range(count):
        ls = mb.list_write(ls=ls, index=n, value=x)
    return ls


BOMBS = {
    "tile": lambda x: mb.tile(x=x, reps=np.array([400, 400], np.int32)),
    "concat": doubled,
    "stack": lambda x: mb.stack(values=[mb.tile(x=x, reps=LARGE)] * 9, axis=0),
    "kept alive": kept_alive,
    "broadcast": outer,
    "matmul": product,
    "fill": lambda x: mb.add(x=mb.fill(shape=[2000, 2000], value=1.0), y=mb.reduce_sum(x=x)),
    "fill by value": lambda x: mb.fill(
        shape=mb.expand_dims(x=mb.mul(x=by_value(x), y=np.int32(10**7)), axes=[0]), value=1.0
    ),
    "range": lambda x: mb.range_1d(end=mb.mul(x=by_value(x), y=np.int32(10**7)), start=0, step=1),
    "one_hot": lambda x: mb.one_hot(
        indices=mb.cast(x=x, dtype="int32"), one_hot_vector_size=mb.mul(x=by_value(x), y=10**6)
    ),
    "pad": lambda x: mb.pad(x=x, pad=np.array([0, 0, 2**29, 0], np.int32)),
    "gather": lambda x: mb.gather(
        x=mb.tile(x=x, reps=LARGE), indices=np.zeros((900,), np.int32), axis=0
    ),
    "sliding_windows": lambda x: mb.sliding_windows(
        x=mb.tile(x=x, reps=np.array([1, 64], np.int32)), axis=1, size=2000
    ),
    "upsample": lambda x: mb.upsample_nearest_neighbor(
        x=mb.reshape(x=x, shape=[1, 1, 8, 8]), scale_factor_height=200, scale_factor_width=200
    ),
    "resize": lambda x: mb.resize_bilinear(
        x=mb.reshape(x=x, shape=[1, 1, 8, 8]), target_size_height=2000, target_size_width=2000
    ),
    "random": lambda x: mb.add(
        x=mb.random_normal(shape=np.array([2000, 2000], np.int32)), y=mb.reduce_sum(x=x)
    ),
    "list by value": lambda x: mb.list_length(
        ls=mb.make_list(init_length=mb.mul(x=by_value(x), y=np.int32(10**7)), elem_shape=(1,))
    ),
    "list that grows": lambda x: mb.list_length(
        ls=mb.list_write(
            ls=mb.make_list(init_length=1, elem_shape=(1, 64)),
            index=mb.mul(x=by_value(x), y=np.int32(10**7)),
            value=x,
        )
    ),
    "list kept alive": lambda x: mb.list_gather(
        ls=listed(mb.tile(x=x, reps=np.array([1, 900], np.int32)), 40),
        indices=np.array([0], np.int32),
    ),
    "resample": lambda x: mb.resample(
        x=mb.reshape(x=x, shape=[1, 1, 8, 8]),
        coordinates=mb.tile(
            x=mb.reshape(x=x, shape=[1, 1, 32, 2]), reps=np.array([1, 50, 50, 1], np.int32)
        ),
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=np.float32(0),
        coordinates_mode="unnormalized",
        align_corners=True,
    ),
    "crop_resize": lambda x: mb.crop_resize(
        x=mb.reshape(x=x, shape=[1, 1, 8, 8]),
        boxes=np.zeros((1, 4), np.float32),
        target_height=2000,
        target_width=2000,
    ),
    "recurrent": lambda x: mb.rnn(
        x=mb.reshape(x=mb.tile(x=x, reps=np.array([1, 200], np.int32)), shape=[12800, 1, 1]),
        initial_h=np.zeros((1, 64), np.float32),
        weight_ih=np.ones((64, 1), np.float32),
        weight_hh=np.ones((64, 64), np.float32),
    )[1],
    "conv": lambda x: mb.conv(
        x=mb.reshape(x=x, shape=[1, 1, 64]),
        weight=np.ones((1, 1, 3), np.float32),
        pad_type="custom",
        pad=np.array([2**24, 0], np.int32),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_its_memory_is_taken(name, save):
    engine = MilEngine(save(BOMBS[name], {"x": X}), precision="fp32", limits=SMALL)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"bytes at one time and may take 4,194,304") as caught:
            engine.run({"x": X})
        assert tracemalloc.get_traced_memory()[1] < 3 * BUDGET
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_what_fits_the_budget_runs(save):
    package = save(lambda x: mb.tile(x=x, reps=np.array([16, 16], np.int32)), {"x": X})
    results = MilEngine(package, limits=SMALL).run({"x": X})
    assert [value.shape for value in results.values()] == [(16, 1024)]


LOOPS = {
    "empty body": lambda v: mb.identity(x=v),
    "product": lambda v: mb.mul(x=v, y=np.float32(1.0)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_without_an_end_is_stopped(name, save):
    def build(x):
        return mb.while_loop(
            _cond=lambda v: mb.less(x=mb.reduce_sum(x=v), y=np.float32(1e9)),
            _body=lambda v: LOOPS[name](v),
            loop_vars=(x,),
        )

    engine = MilEngine(save(build, {"x": X}))
    with pytest.raises(InputError, match="its loops go on after 65,536 operations"):
        engine.run({"x": X})


def test_states_of_any_size_are_refused(save):
    def build(x, state):
        return mb.add(x=x, y=mb.cast(x=mb.read_state(input=state), dtype="fp32"))

    package = save(build, {"x": X}, {"state": ((1, 64), "float16")})
    path = package / MODEL
    model = Model.FromString(path.read_bytes())
    for function in model.mlProgram.functions.values():
        for port in function.inputs:
            if port.type.HasField("stateType"):
                tensor = port.type.stateType.wrappedType.tensorType
                tensor.dimensions[0].constant.size = 2**40
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"The states of test\.mlpackage take 281,474,976,710,656"):
        MilEngine(package)


def everything(x):
    weight = np.random.default_rng(6).standard_normal((48, 64)).astype(np.float32)
    y = mb.linear(x=x, weight=weight)
    y = mb.layer_norm(x=y, axes=[-1])
    y = mb.reshape(x=mb.gelu(x=y), shape=[1, 3, 4, 4])
    y = mb.conv(x=y, weight=np.ones((2, 3, 1, 1), np.float32))
    y = mb.slice_by_index(x=y, begin=[0, 0, 1, 0], end=[1, 2, 4, 4])
    return mb.softmax(x=mb.tile(x=y, reps=[1, 1, 1, 2]), axis=-1)


def test_any_change_of_a_program_is_a_sentence_or_runs(save):
    package = save(everything, {"x": X})
    data, rng = (package / MODEL).read_bytes(), random.Random(11)
    refused = 0
    for _ in range(400):
        model = Model.FromString(data)
        edit_message(model, draw_message(rng, model))
        (package / MODEL).write_bytes(model.SerializeToString())
        try:
            MilEngine(package, limits=Limits(1 / 16)).run({"x": X})
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1500
    assert 40 < refused < 400


@pytest.mark.parametrize(
    ("operation", "inputs", "elements"),
    [
        ("add", {"x": (2000, 1), "y": (1, 3000)}, 6_000_000),
        ("matmul", {"x": (4, 3000, 5), "y": (5, 2000)}, 24_000_000),
        ("linear", {"x": (7, 64), "weight": (100, 64)}, 700),
        ("gather", {"x": (9, 8), "indices": (5, 4)}, 160),
        ("concat", {"values": [(2, 3), (4, 3)]}, 18),
        ("batch_norm", {"x": (2, 900, 40, 1), "mean": (900,), "variance": (900,)}, 72_000),
        ("instance_norm", {"x": (2, 900, 40, 1), "gamma": (900,)}, 72_000),
        ("layer_norm", {"x": (2, 900, 40, 1), "gamma": (900,)}, 72_000),
    ],
)
def test_elements_are_known_before_they_are_made(operation, inputs, elements):
    arguments = {
        name: tuple(map(np.zeros, value)) if isinstance(value, list) else np.zeros(value)
        for name, value in inputs.items()
    }
    assert measure_of(operation, is_view=False)(arguments) == elements
    assert measure_of("transpose", is_view=True) is None
