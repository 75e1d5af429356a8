"""Reading images between their pixels, against PyTorch and against what the definitions say."""

from __future__ import annotations

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402

F = torch.nn.functional
RNG = np.random.default_rng(8)
PADDINGS = {"constant": "zeros", "border": "border"}
SQUARE = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def resampled(x, coordinates, **options):
    chosen = {
        "sampling_mode": "bilinear",
        "padding_mode": "constant",
        "padding_value": np.float32(0),
        "coordinates_mode": "normalized_minus_one_to_one",
        "align_corners": True,
    }
    return mb.resample(x=x, coordinates=coordinates, **{**chosen, **options})


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("padding", ["constant", "border", "reflected"])
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
def test_resample_equals_grid_sample(sampling, padding, align, execute):
    """PyTorch's reflection is Core ML's "reflection" between centres of pixels (corners aligned),
    and its "symmetric" between their edges."""
    x, where = normal(2, 3, 5, 7), 2 * normal(2, 4, 6, 2)
    reflection = "reflection" if align else "symmetric"
    mode = reflection if padding == "reflected" else padding

    def build(x, where):
        return resampled(x, where, sampling_mode=sampling, padding_mode=mode, align_corners=align)

    expected = F.grid_sample(
        torch.from_numpy(x),
        torch.from_numpy(where),
        mode=sampling,
        padding_mode=PADDINGS.get(padding, "reflection"),
        align_corners=align,
    )
    found = execute("resample", build, {"x": x, "where": where})[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_coordinates_are_pixels_or_shares_of_the_range_that_is_named(execute):
    x, shares = normal(1, 2, 5, 7), RNG.random((1, 3, 3, 2)).astype(np.float32)

    def build(x, shares):
        pixels = mb.mul(x=shares, y=np.float32([6, 4]))
        return (
            resampled(x, mb.sub(x=mb.mul(x=shares, y=np.float32(2)), y=np.float32(1))),
            resampled(x, shares, coordinates_mode="normalized_zero_to_one"),
            resampled(x, pixels, coordinates_mode="unnormalized"),
        )

    first, second, third = execute("resample", build, {"x": x, "shares": shares})
    np.testing.assert_allclose(second, first, atol=1e-5)
    np.testing.assert_allclose(third, first, atol=1e-5)


def test_what_lies_outside_has_the_padding_value(execute):
    """Apple's own example."""
    x = np.float32([11, 22, 33, 44]).reshape(1, 1, 2, 2)
    where = np.float32([-1, -2, -3.7, -1, 0, 0, 3.5, 1.2]).reshape(1, 2, 2, 2)

    def build(x, where):
        return resampled(x, where, padding_value=np.float32(6.17))

    found = execute("resample", build, {"x": x, "where": where})[0]
    np.testing.assert_allclose(found.ravel(), [8.585, 6.17, 27.5, 6.17], atol=1e-5)


def test_coordinates_that_are_no_numbers_are_outside(execute):
    where = np.full((1, 1, 2, 2), np.nan, np.float32)
    where[..., 0, :] = np.inf

    def build(x, where):
        return resampled(x, where, padding_value=np.float32(5), sampling_mode="nearest")

    found = execute("resample", build, {"x": SQUARE, "where": where})[0]
    np.testing.assert_array_equal(found.ravel(), [5, 5])


def test_affine_equals_torch(execute):
    x, matrices = normal(2, 3, 5, 7), normal(2, 6)

    def build(x, matrices):
        return mb.affine(
            x=x,
            transform_matrix=matrices,
            output_height=4,
            output_width=6,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=np.float32(0),
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        )

    grid = F.affine_grid(torch.from_numpy(matrices).reshape(2, 2, 3), (2, 3, 4, 6), True)
    expected = F.grid_sample(torch.from_numpy(x), grid, align_corners=True)
    found = execute("affine", build, {"x": x, "matrices": matrices})[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


BOXES = {
    "CORNERS_HEIGHT_FIRST": [1, 0, 2, 3],
    "CORNERS_WIDTH_FIRST": [0, 1, 3, 2],
    "CENTER_SIZE_HEIGHT_FIRST": [1.5, 1.5, 1, 3],
    "CENTER_SIZE_WIDTH_FIRST": [1.5, 1.5, 3, 1],
}


@pytest.mark.parametrize("mode", BOXES)
def test_a_box_is_read_by_the_convention_that_is_named(mode, execute):
    box = np.float32([BOXES[mode]])

    def build(x, box):
        return mb.crop_resize(
            x=x,
            boxes=box,
            box_indices=np.int32([0]),
            target_height=2,
            target_width=4,
            box_coordinate_mode=mode,
            sampling_mode="ALIGN_CORNERS",
        )

    found = execute("crop_resize", build, {"x": SQUARE, "box": box})[0]
    np.testing.assert_allclose(found[0, 0], SQUARE[0, 0, 1:3], atol=1e-5)


@pytest.mark.parametrize(
    "mode", ["DEFAULT", "STRICT_ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS"]
)
def test_a_box_of_the_whole_image_is_resize_bilinear(mode, execute):
    x, box = normal(2, 3, 5, 7), np.float32([[0, 0, 4, 6], [0, 0, 4, 6]])

    def build(x, box):
        return (
            mb.crop_resize(x=x, boxes=box, target_height=4, target_width=9, sampling_mode=mode),
            mb.resize_bilinear(x=x, target_size_height=4, target_size_width=9, sampling_mode=mode),
        )

    cropped, resized = execute("crop_resize", build, {"x": x, "box": box})
    np.testing.assert_allclose(cropped, resized, atol=1e-5)


ROI = [[0, 0.1, 0.3, 1.3, 1], [0, 0.5, 1.8, 1, 0.3], [0, 0, 0.4, 0.6, 0.7]]
CROPS = [3.1, 5.2, 9, 9, 9, 7.9, 9, 13.9, 2.2, 3.1, 9.4, 10.3]  # Apple's own example


@pytest.mark.parametrize("with_image", [True, False])
def test_older_boxes_are_cut_from_the_image_that_they_name_or_from_each(with_image, save):
    roi = np.float32(ROI)[:, 0 if with_image else 1 :]
    options = {"normalized_coordinates": True, "sampling_mode": "ALIGN_CORNERS"}

    def build(x):
        return mb.crop_resize(
            x=x,
            roi=roi.reshape(3, 1, -1, 1, 1),
            target_height=2,
            target_width=2,
            pad_value=np.float32(9),
            **options,
        )

    engine = MilEngine(save(build, {"x": SQUARE}, opset=ct.target.iOS16), precision="fp32")
    found = engine.run({"x": SQUARE})["result_0"]
    assert found.shape == (3, 1, 1, 2, 2)
    np.testing.assert_allclose(found.ravel(), CROPS, atol=1e-4)


NEAREST = {  # of seven elements: the documented positions of three samples, rounded
    "DEFAULT": [1, 3, 5],
    "UNALIGN_CORNERS": [1, 3, 5],
    "STRICT_ALIGN_CORNERS": [0, 3, 6],
    "ALIGN_CORNERS": [0, 3, 6],
    "OFFSET_CORNERS": [1, 3, 5],
}


def nearest(x, mode):
    return mb.resize(
        x=x,
        shape=np.int32([3, 1]),
        resized_dims=np.uint32(2),
        interpolation_mode="NEAREST_NEIGHBOR",
        sampling_mode=mode,
    )


@pytest.mark.parametrize("mode", NEAREST)
def test_resize_takes_the_nearest_element_in_every_mode(mode, execute):
    x = normal(1, 7, 1)
    found = execute("resize", lambda x: nearest(x, mode), {"x": x})[0]
    np.testing.assert_array_equal(found.ravel(), x.ravel()[NEAREST[mode]])


def test_resize_takes_the_element_at_the_middle_of_each_output(execute):
    """Apple's own example."""
    x = np.float32([[[-6.174], [9.371]]])
    found = execute("resize", lambda x: nearest(x, "DEFAULT"), {"x": x})[0]
    np.testing.assert_array_equal(found.ravel(), np.float32([-6.174, 9.371, 9.371]))


def test_fractional_factors_take_positions_from_the_sizes(execute):
    """Apple's own example: PyTorch, which divides by the factor, would repeat the first element."""
    x = np.float32([1.5, -2.5, 3.5]).reshape(1, 1, 1, 3)

    def build(x):
        return [
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=h, scale_factor_width=w)
            for h, w in ((3.17, 0.67), (2.0, 1.12))
        ]

    smaller, same = execute("upsample_nearest_neighbor", build, {"x": x})
    np.testing.assert_array_equal(smaller[0, 0], [[1.5, -2.5]] * 3)
    np.testing.assert_array_equal(same[0, 0], [[1.5, -2.5, 3.5]] * 2)
