"""Shapes, slices, gathers, sorts and reductions against coremltools' value inference and numpy."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.errors import InputError

torch = pytest.importorskip("torch")
mb = pytest.importorskip("coremltools.converters.mil").Builder

RNG = np.random.default_rng(1)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
IMAGE = RNG.standard_normal((2, 8, 4, 6)).astype(np.float32)
INTS = RNG.integers(-9, 9, (3, 5)).astype(np.int32)

# name: (operation, arguments besides x, x); the reference is coremltools' value inference
INFERRED = {
    "reshape": ("reshape", {"shape": [4, 6]}, X),
    "reshape_infers_minus_one": ("reshape", {"shape": [4, -1]}, X),
    "transpose": ("transpose", {"perm": [2, 0, 1]}, X),
    "transpose_negative_axes": ("transpose", {"perm": [-1, 0, -2]}, X),
    "expand_dims_several": ("expand_dims", {"axes": [0, -1]}, X),
    "squeeze_all": ("squeeze", {}, X[:1, :, :1]),
    "squeeze_one": ("squeeze", {"axes": [-1]}, X[:1, :, :1]),
    "reverse": ("reverse", {"axes": [0, -1]}, X),
    "reverse_all": ("reverse", {}, X),
    "flatten2d": ("flatten2d", {"axis": 2}, X),
    "tile": ("tile", {"reps": [2, 1, 3]}, X),
    "pad_constant": ("pad", {"pad": [1, 2, 0, 3], "constant_val": 7.0}, X),
    "pad_reflect": ("pad", {"pad": [1, 2], "mode": "reflect"}, X),
    "pad_replicate": ("pad", {"pad": [2, 1], "mode": "replicate"}, X),
    "shape": ("shape", {}, X),
    "band_part_lower": ("band_part", {"lower": -1, "upper": 0}, X),
    "band_part_band": ("band_part", {"lower": 1, "upper": 1}, X),
    "cumsum": ("cumsum", {"axis": 1}, X),
    "cumsum_exclusive": ("cumsum", {"axis": -1, "exclusive": True}, X),
    "cumsum_reverse": ("cumsum", {"axis": 0, "reverse": True}, X),
    "cumsum_reverse_exclusive": ("cumsum", {"axis": 2, "exclusive": True, "reverse": True}, X),
    "split_equal": ("split", {"num_splits": 2, "axis": -1}, X),
    "split_sizes": ("split", {"split_sizes": [1, 3], "axis": 2}, X),
    "slice": ("slice_by_index", {"begin": [0, 1, 1], "end": [2, 3, 3]}, X),
    "slice_negative": ("slice_by_index", {"begin": [0, -2, -3], "end": [2, -1, 4]}, X),
    "slice_stride": (
        "slice_by_index",
        {"begin": [0, 0, 0], "end": [2, 3, 4], "stride": [1, 2, 3]},
        X,
    ),
    "slice_backwards": (
        "slice_by_index",
        {
            "begin": [0, 0, -1],
            "end": [2, 3, 0],
            "stride": [1, -1, -2],
            "begin_mask": [False, True, False],
            "end_mask": [False, True, True],
        },
        X,
    ),
    "slice_masks": (
        "slice_by_index",
        {
            "begin": [1, 1, 1],
            "end": [1, 2, 2],
            "begin_mask": [True, False, False],
            "end_mask": [True, False, True],
        },
        X,
    ),
    "slice_squeeze": (
        "slice_by_index",
        {"begin": [1, -1, 0], "end": [0, 0, 4], "squeeze_mask": [True, True, False]},
        X,
    ),
    "slice_by_size": ("slice_by_size", {"begin": [0, 1, -2], "size": [1, -1, 2]}, X),
    "slice_update": (
        "slice_update",
        {"update": np.ones((2, 1, 2), np.float32), "begin": [0, 1, 1], "end": [2, 2, 3]},
        X,
    ),
    "slice_update_masks": (
        "slice_update",
        {
            "update": np.ones((2, 2), np.float32),
            "begin": [0, 2, 0],
            "end": [0, 0, 4],
            "stride": [1, 1, 2],
            "begin_mask": [True, False, False],
            "end_mask": [True, False, False],
            "squeeze_mask": [False, True, False],
        },
        X,
    ),
    "argsort_descending": ("argsort", {"axis": 1}, X),
    "argsort_ascending": ("argsort", {"axis": -1, "ascending": True}, X),
    "topk": ("topk", {"k": 2, "axis": 1}, X),
    "topk_ascending": ("topk", {"k": 3, "ascending": True}, X),
    "non_zero": ("non_zero", {}, np.float32([[0, 1], [2, 0]])),
    "reduce_argmax": ("reduce_argmax", {"axis": 1}, X),
    "reduce_argmin_kept": ("reduce_argmin", {"axis": -1, "keep_dims": True}, X),
    "reduce_mean_ints": ("reduce_sum", {"axes": [-1]}, INTS),
    "gather_axis": ("gather", {"indices": [2, 0, -1], "axis": 1}, X),
    "gather_matrix": ("gather", {"indices": [[1, 0], [0, 1]], "axis": 0}, X),
    "gather_along_axis": (
        "gather_along_axis",
        {"indices": np.array([[[2], [0]], [[1], [1]]], np.int32).repeat(4, 2), "axis": 1},
        X,
    ),
}
REDUCTIONS = "sum mean max min prod l1_norm l2_norm log_sum_exp sum_square".split()


def check(ours: list, expected: list, tolerance: float = 2e-6) -> None:
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", INFERRED)
def test_array_operation_equals_value_inference(case, execute, inferred):
    op, arguments, x = INFERRED[case]

    def build(x):
        return getattr(mb, op)(x=x, **arguments)

    check(execute(op, build, {"x": x}), inferred(build, {"x": x}))


@pytest.mark.parametrize("axes", [None, [0], [-1], [0, 2]], ids=str)
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reduction_equals_value_inference(kind, axes, execute, inferred):
    op, keep = f"reduce_{kind}", axes == [-1]

    def build(x):
        given = {} if axes is None else {"axes": axes}
        return getattr(mb, op)(x=x, keep_dims=keep, **given)

    check(execute(op, build, {"x": X}), [np.asarray(v) for v in inferred(build, {"x": X})], 1e-5)


def test_reduce_log_sum_is_the_log_of_the_sum(execute):
    x = np.abs(X)
    ours = execute("reduce_log_sum", lambda x: mb.reduce_log_sum(x=x, axes=[1]), {"x": x})[0]
    np.testing.assert_allclose(ours, np.log(x.sum(1)), rtol=1e-6, atol=1e-6)


RESHAPED = {
    (0, -1): (3, 8),
    (2, 0, 0): (2, 3, 4),
    (1, 0, -1, 0): (1, 2, 3, 4),
    (0, 0, -1, 3, 0): (1, 1, 2, 3, 4),
}


@pytest.mark.parametrize("shape", RESHAPED)
def test_reshape_zero_keeps_the_size_of_the_axis_from_the_end(shape, execute, inferred):
    def build(x):
        return mb.reshape(x=x, shape=shape)

    expected = inferred(build, {"x": X})[0]
    assert expected.shape == RESHAPED[shape]
    np.testing.assert_array_equal(execute("reshape", build, {"x": X})[0], expected)


VALIDATED = {
    "gather": lambda x, n: mb.gather(x=x, indices=n, axis=1, validate_indices=True),
    "gather_along_axis": lambda x, n: mb.gather_along_axis(
        x=x, indices=n, axis=0, validate_indices=True
    ),
    "gather_nd": lambda x, n: mb.gather_nd(x=x, indices=n, validate_indices=True),
    "scatter": lambda x, n: mb.scatter(data=x, indices=n, updates=x, axis=0, validate_indices=True),
    "scatter_along_axis": lambda x, n: mb.scatter_along_axis(
        data=x, indices=n, updates=x, axis=0, validate_indices=True
    ),
    "scatter_nd": lambda x, n: mb.scatter_nd(data=x, indices=n, updates=x, validate_indices=True),
}


@pytest.mark.parametrize("index", [-1, 9])
@pytest.mark.parametrize("name", VALIDATED)
def test_indices_that_the_program_validates_are_refused_as_core_ml_does(name, index, save):
    x, indices = np.ones((3, 3), np.float32), np.zeros((3, 3), np.int32)
    if name in ("gather", "scatter"):
        indices = indices[0]
    if name.endswith("_nd"):
        indices = indices[:, :1]
    indices = indices.copy()
    indices[-1] = index
    engine = MilEngine(save(lambda x, n: VALIDATED[name](x, n), {"x": x, "n": indices}))
    with pytest.raises(InputError, match=f"indices go from .*{index}.*takes 0 to 2"):
        engine.run({"x": x, "n": indices})


def test_reshape_like_takes_axes_of_the_references(execute):
    def build(x, a, b):
        arguments = {"begins": [0, 1], "ends": [1, 0], "end_masks": [False, True]}
        return mb.reshape_like(x=x, ref_tensors=(a, b), **arguments)

    a, b = np.zeros((4, 9), np.float32), np.zeros((9, 2, 3), np.float32)
    ours = execute("reshape_like", build, {"x": X, "a": a, "b": b})[0]
    np.testing.assert_array_equal(ours, X.reshape(4, 2, 3))


def test_concat_joins_along_a_negative_axis(execute):
    ours = execute("concat", lambda x, y: mb.concat(values=[x, y], axis=-2), {"x": X, "y": X + 1})
    np.testing.assert_array_equal(ours[0], np.concatenate([X, X + 1], 1))


def test_concat_interleave_takes_turns(execute):
    def build(x, y):
        return mb.concat(values=[x, y], axis=1, interleave=True)

    ours = execute("concat", build, {"x": X, "y": X + 1})[0]
    np.testing.assert_array_equal(ours[:, 0::2], X)
    np.testing.assert_array_equal(ours[:, 1::2], X + 1)


def test_concat_of_a_single_value_is_that_value(execute):
    np.testing.assert_array_equal(
        execute("concat", lambda x: mb.concat(values=[x], axis=0), {"x": X})[0], X
    )


def test_stack_adds_an_axis(execute):
    ours = execute("stack", lambda x, y: mb.stack(values=[x, y], axis=1), {"x": X, "y": -X})[0]
    np.testing.assert_array_equal(ours, np.stack([X, -X], 1))


def test_fill_and_fill_like_repeat_one_value(execute):
    def build(x):
        return [mb.fill(shape=mb.shape(x=x), value=2.5), mb.fill_like(ref_tensor=x, value=1.5)]

    filled, like = execute("fill_like", build, {"x": X})
    assert filled.shape == like.shape == X.shape
    assert np.unique(filled) == 2.5
    assert np.unique(like) == 1.5


def test_range_1d_stops_before_its_end(execute):
    def build(n):
        return mb.range_1d(start=np.int32(1), end=mb.squeeze(x=n, axes=[0]), step=np.int32(3))

    assert execute("range_1d", build, {"n": np.array([10], np.int32)})[0].tolist() == [1, 4, 7]


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot_marks_the_index_along_its_axis(axis, execute):
    indices = np.array([[0, 2], [1, 1]], np.int32)

    def build(i):
        return mb.one_hot(
            indices=i, one_hot_vector_size=3, axis=axis, on_value=np.float32(5), off_value=-1.0
        )

    hot = torch.nn.functional.one_hot(torch.from_numpy(indices).long(), 3).numpy() * 6.0 - 1
    np.testing.assert_array_equal(
        execute("one_hot", build, {"i": indices})[0], np.moveaxis(hot, -1, axis)
    )


@pytest.mark.parametrize(
    ("op", "argument", "reference"),
    [
        ("pixel_shuffle", "upscale_factor", torch.pixel_shuffle),
        ("pixel_unshuffle", "downscale_factor", torch.pixel_unshuffle),
    ],
    ids=["pixel_shuffle", "pixel_unshuffle"],
)
def test_pixel_shuffles_equal_torch(op, argument, reference, execute):
    ours = execute(
        op,
        lambda x: getattr(mb, op)(x=x, **{argument: np.uint32(2) if "down" in argument else 2}),
        {"x": IMAGE},
    )[0]
    np.testing.assert_array_equal(ours, reference(torch.from_numpy(IMAGE), 2).numpy())


def test_depth_to_space_places_channel_block_at_its_position(execute):
    x = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)
    ours = execute("depth_to_space", lambda x: mb.depth_to_space(x=x, block_size=2), {"x": x})[0]
    # channel = (row in block · 2 + column in block) · 2 + output channel
    assert ours[0, 0].tolist() == [[0, 2], [4, 6]]
    assert ours[0, 1].tolist() == [[1, 3], [5, 7]]


def test_space_to_depth_inverts_depth_to_space(execute):
    def build(x):
        return mb.space_to_depth(x=mb.depth_to_space(x=x, block_size=2), block_size=2)

    np.testing.assert_array_equal(execute("space_to_depth", build, {"x": IMAGE})[0], IMAGE)


def test_sliding_windows_step_by_their_stride(execute):
    def build(x):
        return mb.sliding_windows(x=x, axis=2, size=2, stride=2)

    ours = execute("sliding_windows", build, {"x": X})[0]
    np.testing.assert_array_equal(ours, X.reshape(2, 3, 2, 2))


def test_gather_with_batch_axis_takes_each_examples_own_rows(execute):
    indices = np.array([[2, 0], [1, 1]], np.int32)

    def build(x, i):
        return mb.gather(x=x, indices=i, axis=1, batch_dims=1)

    ours = execute("gather", build, {"x": X, "i": indices})[0]
    np.testing.assert_array_equal(ours, np.stack([X[0][[2, 0]], X[1][[1, 1]]]))


def test_gather_nd_reads_index_vectors(execute):
    indices = np.array([[1, 2], [0, 0]], np.int32)
    ours = execute("gather_nd", lambda x, i: mb.gather_nd(x=x, indices=i), {"x": X, "i": indices})[
        0
    ]
    np.testing.assert_array_equal(ours, np.stack([X[1, 2], X[0, 0]]))


def test_gather_nd_with_batch_axis_stays_in_its_example(execute):
    indices = np.array([[[2], [1]], [[0], [0]]], np.int32)

    def build(x, i):
        return mb.gather_nd(x=x, indices=i, batch_dims=1)

    ours = execute("gather_nd", build, {"x": X, "i": indices})[0]
    np.testing.assert_array_equal(ours, np.stack([X[0, [2, 1]], X[1, [0, 0]]]))


COMBINE = {
    "update": None,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


@pytest.mark.parametrize("mode", COMBINE)
def test_scatter_combines_by_its_mode(mode, execute):
    updates = RNG.standard_normal((2, 2, 4)).astype(np.float32)
    indices = np.array([2, 0], np.int32)
    expected = X.copy()
    old = expected[:, indices]
    expected[:, indices] = updates if mode == "update" else COMBINE[mode](old, updates)

    def build(x, i, u):
        return mb.scatter(data=x, indices=i, updates=u, axis=1, mode=mode)

    ours = execute("scatter", build, {"x": X, "i": indices, "u": updates})[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_scatter_add_accumulates_repeated_indices(execute):
    def build(x, i, u):
        return mb.scatter(data=x, indices=i, updates=u, axis=0, mode="add")

    inputs = {
        "x": np.zeros(3, np.float32),
        "i": np.array([1, 1], np.int32),
        "u": np.float32([2, 3]),
    }
    assert execute("scatter", build, inputs)[0].tolist() == [0, 5, 0]


def test_scatter_along_axis_equals_torch(execute):
    indices = np.array([[[0, 1, 2, 0]], [[2, 2, 1, 1]]], np.int32)
    updates = RNG.standard_normal(indices.shape).astype(np.float32)
    expected = torch.scatter(
        torch.from_numpy(X), 1, torch.from_numpy(indices).long(), torch.from_numpy(updates)
    )

    def build(x, i, u):
        return mb.scatter_along_axis(data=x, indices=i, updates=u, axis=1, mode="update")

    ours = execute("scatter_along_axis", build, {"x": X, "i": indices, "u": updates})[0]
    np.testing.assert_array_equal(ours, expected.numpy())


def test_scatter_nd_writes_slices_at_index_vectors(execute):
    indices = np.array([[1, 2], [0, 0]], np.int32)
    updates = RNG.standard_normal((2, 4)).astype(np.float32)
    expected = X.copy()
    expected[1, 2], expected[0, 0] = updates

    def build(x, i, u):
        return mb.scatter_nd(data=x, indices=i, updates=u, mode="update")

    ours = execute("scatter_nd", build, {"x": X, "i": indices, "u": updates})[0]
    np.testing.assert_array_equal(ours, expected)


def test_topk_keeps_the_first_of_equal_values(execute):
    x = np.float32([[1, 3, 3, 2, 3]])
    values, indices = execute("topk", lambda x: mb.topk(x=x, k=2), {"x": x})
    assert values.tolist() == [[3, 3]]
    assert indices.tolist() == [[1, 2]]


def test_crop_cuts_both_ends(execute):
    def build(x):
        return mb.crop(x=x, crop_height=[1, 1], crop_width=[2, 0])

    np.testing.assert_array_equal(execute("crop", build, {"x": IMAGE})[0], IMAGE[:, :, 1:-1, 2:])


def test_cond_takes_the_branch_of_its_predicate(execute):
    def build(x, n):
        pred = mb.greater(x=mb.squeeze(x=n, axes=[0]), y=np.int32(0))
        return mb.cond(
            pred=pred,
            _true_fn=lambda: mb.add(x=x, y=np.float32(1)),
            _false_fn=lambda: mb.mul(x=x, y=np.float32(2)),
        )

    plus = execute("cond", build, {"x": X, "n": np.array([1], np.int32)})[0]
    np.testing.assert_array_equal(plus, X + 1)


def test_while_loop_repeats_until_its_condition_fails(execute):
    def build(x):
        return mb.while_loop(
            _cond=lambda i, x: mb.less(x=i, y=np.int32(5)),
            _body=lambda i, x: (mb.add(x=i, y=np.int32(1)), mb.mul(x=x, y=np.float32(2))),
            loop_vars=(np.int32(0), x),
        )

    count, doubled = execute("while_loop", build, {"x": X})
    assert count == 5
    np.testing.assert_array_equal(doubled, X * 32)
