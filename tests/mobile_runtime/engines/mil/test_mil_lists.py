"""Lists of tensors: what is written is read, in loops too, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.errors import InputError

pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb

A, B = np.float32([1, 3]), np.float32([2, 4])


def test_elements_are_read_where_they_were_written_and_zeros_elsewhere(execute):
    def build(a, b):
        ls = mb.make_list(init_length=2, elem_shape=(2,))
        before = mb.list_read(ls=ls, index=0)
        first = mb.list_write(ls=ls, index=0, value=a)
        ls = mb.list_write(ls=first, index=4, value=b)  # grows
        ls = mb.list_scatter(ls=ls, indices=[2, 1], value=np.float32([[-1, -2], [-4, -5]]))
        return (
            before,
            mb.list_gather(ls=ls, indices=[4, 2, 3, 0]),
            mb.list_length(ls=ls),
            mb.list_length(ls=first),
        )

    before, gathered, length, length_before = execute("list_scatter", build, {"a": A, "b": B})
    np.testing.assert_array_equal(before, [0, 0])
    np.testing.assert_array_equal(gathered, [B, [-1, -2], [0, 0], A])
    assert (length, length_before) == (5, 2)


def test_a_loop_collects_its_values_in_a_list(execute):
    def body(i, ls, x):
        value = mb.mul(x=x, y=mb.cast(x=i, dtype="fp32"))
        return mb.add(x=i, y=1), mb.list_write(ls=ls, index=i, value=value), x

    def build(x):
        ls = mb.make_list(init_length=1, elem_shape=(2,))
        _, ls, _ = mb.while_loop(
            _cond=lambda i, ls, x: mb.less(x=i, y=4), _body=body, loop_vars=(0, ls, x)
        )
        return mb.list_gather(
            ls=ls, indices=mb.range_1d(start=0, end=mb.list_length(ls=ls), step=1)
        )

    (found,) = execute("list_gather", build, {"x": A})
    np.testing.assert_array_equal(found, [0 * A, A, 2 * A, 3 * A])


def test_a_written_element_outlives_a_change_of_its_value(save):
    """The list keeps the value as it was, though the program then overwrites part of it."""

    def build(x):
        value = mb.mul(x=x, y=np.float32(2))
        ls = mb.list_write(ls=mb.make_list(init_length=1, elem_shape=(2,)), index=0, value=value)
        changed = mb.slice_update(x=value, update=np.float32([9]), begin=[0], end=[1])
        return changed, mb.list_read(ls=ls, index=0)

    results = MilEngine(save(build, {"x": A})).run({"x": A})
    np.testing.assert_array_equal(results["result_0"], [9, 6])
    np.testing.assert_array_equal(results["result_1"], [2, 6])


@pytest.mark.parametrize(("dynamic", "index"), [(True, -1), (False, 2)])
def test_a_position_outside_of_the_list_is_a_sentence(dynamic, index, save):
    def build(x):
        ls = mb.make_list(init_length=2, elem_shape=(2,), dynamic_length=dynamic)
        return mb.list_read(ls=mb.list_write(ls=ls, index=index, value=x), index=0)

    engine = MilEngine(save(build, {"x": A}))
    with pytest.raises(InputError, match=f"position {index} is outside of a list of 2"):
        engine.run({"x": A})
