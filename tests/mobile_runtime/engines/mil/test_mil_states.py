"""States, with numpy and with PyTorch: steps of a cache, functions that share one, and writes that
must not leak."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine

ct = pytest.importorskip("coremltools")
pytest.importorskip("torch")
from coremltools.converters.mil import Builder as mb  # noqa: E402

from mobile_runtime.engines.torch import TorchEngine  # noqa: E402

ENGINES = {
    "numpy": MilEngine,
    "torch": TorchEngine,
    "torch, halves": partial(TorchEngine, stores_half=True),
}

RNG = np.random.default_rng(3)
SHAPE = (2, 4, 8, 2)  # rows (key, value), heads, context, head_dim
CACHE = {"cache": (SHAPE, "float16")}


@pytest.fixture(params=ENGINES)
def open_engine(request):
    return ENGINES[request.param]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float16)


def write_row(cache, new, position, row: int, length: int):
    begin = mb.concat(values=[np.int32([row, 0]), position, np.int32([0])], axis=0)
    last = mb.add(x=position, y=np.int32([length]))
    end = mb.concat(values=[np.int32([row + 1, SHAPE[1]]), last, np.int32([SHAPE[3]])], axis=0)
    updated = mb.slice_update(x=mb.read_state(input=cache), update=new, begin=begin, end=end)
    return mb.coreml_update_state(state=cache, value=updated)


def read_row(value, row: int):
    return mb.slice_by_index(
        x=value,
        begin=[row, 0, 0, 0],
        end=[row + 1, 0, 0, 0],
        end_mask=[False, True, True, True],
    )


def cache_step(length: int):
    """Write new keys and values; return both rows, the keys sliced before the values' write."""

    def build(new_keys, new_values, position, cache):
        keys = read_row(write_row(cache, new_keys, position, 0, length), 0)
        values = read_row(write_row(cache, new_values, position, 1, length), 1)
        return [mb.add(x=keys, y=np.float16(0)), mb.add(x=values, y=np.float16(0))]

    return build


def step_inputs(length: int, position: int) -> dict[str, np.ndarray]:
    new = (1, SHAPE[1], length, SHAPE[3])
    return {
        "new_keys": normal(*new),
        "new_values": normal(*new),
        "position": np.int32([position]),
    }


@pytest.fixture
def two_functions(save_functions, open_engine):
    lengths = {"prefill": 4, "decode": 1}
    builds = {name: (cache_step(n), step_inputs(n, 0)) for name, n in lengths.items()}
    return open_engine(save_functions(builds, CACHE, "decode"))


def test_functions_of_one_package_share_one_state(two_functions):
    state = two_functions.new_state()
    assert set(state) == {"cache"}
    expected = np.zeros(SHAPE, np.float32)
    for function, length, position in [("prefill", 4, 0), ("decode", 1, 4), ("decode", 1, 5)]:
        inputs = step_inputs(length, position)
        results = two_functions.run(inputs, function=function, state=state)
        expected[0, :, position : position + length] = inputs["new_keys"][0]
        expected[1, :, position : position + length] = inputs["new_values"][0]
        np.testing.assert_array_equal(results["result_0"][0], expected[0])
        np.testing.assert_array_equal(results["result_1"][0], expected[1])
        np.testing.assert_array_equal(state["cache"], expected)


def test_default_function_runs_when_none_is_named(two_functions):
    results = two_functions.run(step_inputs(1, 0))
    assert results["result_0"].shape == (1, *SHAPE[1:])


def test_call_without_a_state_starts_from_zeros(two_functions):
    two_functions.run(step_inputs(1, 3), function="decode")
    keys = two_functions.run(step_inputs(1, 0), function="decode")["result_0"]
    assert not keys[:, :, 1:].any()


def test_cache_is_written_in_place(two_functions, monkeypatch):
    copied = []
    monkeypatch.setattr(two_functions._arithmetic, "copy", copied.append)
    state = two_functions.new_state()
    before = state["cache"]
    two_functions.run(step_inputs(1, 2), function="decode", state=state)
    assert state["cache"] is before
    assert copied == []  # the keys, read before the values are written, lie elsewhere
    steps = two_functions._plans["decode"].steps
    updates = [step for step in steps if step.operation.type == "slice_update"]
    assert len(updates) == 2
    assert all(step.detach is not None for step in updates)


def test_result_does_not_change_with_later_calls(save, open_engine):
    def build(x, cache):
        old = mb.read_state(input=cache)
        new = mb.coreml_update_state(state=cache, value=mb.add(x=old, y=x))
        return [mb.identity(x=new)]

    x = np.ones(SHAPE, np.float16)
    engine = open_engine(save(build, {"x": x}, CACHE))
    state = engine.new_state()
    first = engine.run({"x": x}, state=state)["result_0"]
    second = engine.run({"x": x}, state=state)["result_0"]
    assert np.unique(first) == 1
    assert np.unique(second) == 2


def update(x, new):
    return mb.slice_update(x=x, update=new, begin=[0, 0, 0, 0], end=[1, 4, 8, 2])


NEW = np.ones((1, *SHAPE[1:]), np.float16)


def test_value_read_before_a_write_keeps_the_old_content(save, open_engine):
    def build(new, cache):
        old = mb.read_state(input=cache)
        part = read_row(old, 0)
        written = mb.coreml_update_state(state=cache, value=update(old, new))
        return [mb.add(x=part, y=np.float16(0)), mb.add(x=written, y=np.float16(0))]

    engine = open_engine(save(build, {"new": NEW}, CACHE))
    state = engine.new_state()
    old, written = engine.run({"new": NEW}, state=state).values()
    assert not old.any()
    assert written[0].all()
    assert not written[1].any()


def test_whole_value_read_before_a_write_keeps_the_old_content(save, open_engine):
    def build(new, cache):
        old = mb.read_state(input=cache)
        mb.coreml_update_state(state=cache, value=update(old, new))
        return [mb.add(x=old, y=np.float16(0))]

    engine = open_engine(save(build, {"new": NEW}, CACHE))
    state = engine.new_state()
    assert not engine.run({"new": NEW}, state=state)["result_0"].any()
    assert state["cache"][0].all()


def test_update_that_is_never_written_leaves_the_state_alone(save, open_engine):
    def build(new, cache):
        return [mb.add(x=update(mb.read_state(input=cache), new), y=np.float16(0))]

    engine = open_engine(save(build, {"new": NEW}, CACHE))
    state = engine.new_state()
    assert engine.run({"new": NEW}, state=state)["result_0"][0].all()
    assert not state["cache"].any()


def test_state_read_between_update_and_write_is_the_old_one(save, open_engine):
    def build(new, cache):
        updated = update(mb.read_state(input=cache), new)
        between = mb.add(x=mb.read_state(input=cache), y=np.float16(0))
        mb.coreml_update_state(state=cache, value=updated)
        return [between]

    engine = open_engine(save(build, {"new": NEW}, CACHE))
    state = engine.new_state()
    assert not engine.run({"new": NEW}, state=state)["result_0"].any()
    assert state["cache"][0].all()


def test_update_of_an_input_leaves_the_callers_array_alone(save, open_engine):
    def build(x, new):
        return [mb.identity(x=update(x, new))]

    x = np.zeros(SHAPE, np.float32)
    engine = open_engine(save(build, {"x": x.astype(np.float16), "new": NEW}), precision="fp32")
    result = engine.run({"x": x, "new": NEW})["result_0"]
    assert result[0].all()
    assert not x.any()


def test_result_that_is_an_input_is_a_copy(save, open_engine):
    x = np.ones((2, 2), np.float32)
    result = open_engine(save(lambda x: mb.identity(x=x), {"x": x}), precision="fp32").run({"x": x})
    result["result_0"][:] = 5
    assert np.unique(x) == 1


def test_two_updates_of_one_value_do_not_see_each_other(save, open_engine):
    def build(x, new):
        base = mb.add(x=x, y=np.float16(0))
        twice = mb.mul(x=new, y=np.float16(2))
        return [mb.identity(x=update(base, new)), mb.identity(x=update(base, twice))]

    x = np.zeros(SHAPE, np.float16)
    one, two = open_engine(save(build, {"x": x, "new": NEW})).run({"x": x, "new": NEW}).values()
    assert np.unique(one[0]) == 1
    assert np.unique(two[0]) == 2


def test_kept_value_is_the_one_before_it_is_overwritten(two_functions):
    state = two_functions.new_state()
    block = two_functions.functions["decode"].block
    read = next(o.outputs[0].name for o in block.operations if o.type == "read_state")
    results = two_functions.run(step_inputs(1, 0), function="decode", state=state, keep=[read])
    assert not results[read].any()


def test_state_of_full_precision_keeps_what_half_cannot_hold(save, open_engine):
    def build(x, cache):
        old = mb.read_state(input=cache)
        return [mb.coreml_update_state(state=cache, value=mb.add(x=old, y=x))]

    x = np.full(SHAPE, 1 + 2**-12, np.float32)
    package = save(build, {"x": x.astype(np.float16)}, CACHE)
    for precision, expected in (("fp32", 1 + 2**-12), ("fp16", 1)):
        engine = open_engine(package, precision=precision)
        state = engine.new_state()
        engine.run({"x": x}, state=state)
        cache = engine.read_state(state, "cache")
        assert cache.dtype == np.float32
        assert np.unique(cache) == np.float32(expected)


COUNTER = {"total": ((2,), "float16")}


def add_to_state(total, value):
    new = mb.add(x=mb.read_state(input=total), y=value)
    return mb.coreml_update_state(state=total, value=new)


def test_a_loop_reads_and_writes_a_state(save, open_engine):
    def build(x, total):
        before = mb.read_state(input=total)

        def body(n, value):
            return mb.sub(x=n, y=1), add_to_state(total, value)

        _count, last = mb.while_loop(
            _cond=lambda n, value: mb.greater(x=n, y=0), _body=body, loop_vars=(3, x)
        )
        return before, last, mb.read_state(input=total)

    x = np.float16([1, 2])
    engine = open_engine(save(build, {"x": x}, COUNTER), precision="fp16")
    state = engine.new_state()
    engine.write_state(state, "total", np.float32([10, 20]))
    results = engine.run({"x": x}, state=state)
    # x, then 10 + 1 = 11, then 11 + 11, then 22 + 22
    np.testing.assert_array_equal(results["result_1"], [44, 88])
    np.testing.assert_array_equal(results["result_2"], [44, 88])
    np.testing.assert_array_equal(state["total"], [44, 88])
    np.testing.assert_array_equal(results["result_0"], [10, 20])


@pytest.mark.parametrize("taken", [True, False])
def test_a_condition_writes_a_state_in_the_branch_that_is_taken(taken, save, open_engine):
    def build(x, total):
        before = mb.read_state(input=total)
        kept = mb.slice_by_index(x=before, begin=[0], end=[1])
        flag = mb.greater(x=mb.reduce_sum(x=x), y=np.float16(0))
        mb.cond(
            pred=flag,
            _true_fn=lambda: add_to_state(total, x),
            _false_fn=lambda: mb.mul(x=before, y=np.float16(1)),
        )
        return kept, mb.read_state(input=total)

    x = np.float16([1, 2]) * (1 if taken else -1)
    engine = open_engine(save(build, {"x": x}, COUNTER), precision="fp16")
    state = engine.new_state()
    engine.write_state(state, "total", np.float32([10, 20]))
    results = engine.run({"x": x}, state=state)
    expected = [11, 22] if taken else [10, 20]
    np.testing.assert_array_equal(results["result_0"], [10])
    np.testing.assert_array_equal(results["result_1"], expected)
    np.testing.assert_array_equal(state["total"], expected)
