"""Reading images at positions between their pixels: resampling, affine maps, crops of boxes.

Positions are in pixels: x from 0 to width − 1, y from 0 to height − 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import UnsupportedOperation, register
from .resizing import positions


def _choose(table: dict[str, Any], name: Any, what: str) -> Any:
    if str(name) not in table:
        raise UnsupportedOperation(
            f"{what} {str(name)!r} is not known; allowed are {', '.join(table)}."
        )
    return table[str(name)]


def _mirror(where: Array, low: float, high: float) -> Array:
    """Reflect positions at `low` and `high` until they lie between them."""
    span = high - low
    if span <= 0:
        return np.zeros_like(where)
    offset = np.abs(where - low) % (2 * span)
    return np.asarray(np.minimum(offset, 2 * span - offset) + low)


# How positions outside of an axis of `size` pixels are brought inside; "constant" leaves them.
_PADDINGS: dict[str, Callable[[Array, int], Array]] = {
    "constant": lambda where, size: where,
    "border": lambda where, size: np.clip(where, 0, size - 1),
    "reflection": lambda where, size: _mirror(where, 0, size - 1),
    "symmetric": lambda where, size: np.clip(_mirror(where, -0.5, size - 0.5), 0, size - 1),
}

# Lowest and highest coordinate of an image.
_RANGES = {
    "unnormalized": None,
    "normalized_minus_one_to_one": (-1.0, 1.0),
    "normalized_zero_to_one": (0.0, 1.0),
}


def _to_pixels(where: Array, size: int, mode: Any, align_corners: Any) -> Array:
    """Coordinates -> positions. The ends of the range are the centres of the first and last pixel
    or, without `align_corners`, their outer edges."""
    ends = _choose(_RANGES, mode, "Coordinates mode")
    if ends is None:
        return where
    share = (where - ends[0]) / (ends[1] - ends[0])
    return np.asarray(share * (size - 1) if align_corners else share * size - 0.5)


def _pixels(x: Array, rows: Array, columns: Array, outside: Any) -> Array:
    """Pixels of x (c, h, w) at whole positions, `outside` where there is none: (c, …)."""
    height, width = x.shape[1:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    down, right = (np.where(inside, index, 0).astype(np.intp) for index in (rows, columns))
    found = x[:, down, right]
    return np.where(inside, found, np.float32(outside))


def _nearest(x: Array, y_at: Array, x_at: Array, outside: Any) -> Array:
    return _pixels(x, np.rint(y_at), np.rint(x_at), outside)


def _bilinear(x: Array, y_at: Array, x_at: Array, outside: Any) -> Array:
    """The four pixels around each position, weighted by how near they are."""
    top, left = np.floor(y_at), np.floor(x_at)
    down, right = (y_at - top).astype(np.float32), (x_at - left).astype(np.float32)
    result = _pixels(x, top, left, outside) * ((1 - down) * (1 - right))
    result += _pixels(x, top, left + 1, outside) * ((1 - down) * right)
    result += _pixels(x, top + 1, left, outside) * (down * (1 - right))
    result += _pixels(x, top + 1, left + 1, outside) * (down * right)
    return np.asarray(result)


_SAMPLINGS = {"nearest": _nearest, "bilinear": _bilinear}


@register("resample")
def resample(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    coordinates: Array,
    sampling_mode: Any,
    padding_mode: Any,
    padding_value: Any,
    coordinates_mode: Any,
    align_corners: Any,
) -> Array:
    """Values of x (n, c, h, w) at `coordinates` (n, h', w', 2), x before y: (n, c, h', w')."""
    sample = _choose(_SAMPLINGS, sampling_mode, "Sampling mode")
    pad = _choose(_PADDINGS, padding_mode, "Padding mode")
    height, width = x.shape[2:]
    where = coordinates.astype(np.float32)
    x_at = pad(_to_pixels(where[..., 0], width, coordinates_mode, align_corners), width)
    y_at = pad(_to_pixels(where[..., 1], height, coordinates_mode, align_corners), height)
    images = [sample(*one, padding_value) for one in zip(x, y_at, x_at, strict=True)]
    return np.stack(images)


@register("affine")
def affine(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    transform_matrix: Array,
    output_height: Any,
    output_width: Any,
    sampling_mode: Any,
    padding_mode: Any,
    padding_value: Any,
    coordinates_mode: Any,
    align_corners: Any,
) -> Array:
    """Read x (n, c, h, w) at a₀x + a₁y + a₂, b₀x + b₁y + b₂ for each position of the output; one
    row of `transform_matrix`, (a₀, a₁, a₂, b₀, b₁, b₂), for each image or for all."""
    height, width = int(output_height), int(output_width)
    x_out, y_out = _corners(width, align_corners), _corners(height, align_corners)
    ones = np.ones((height, width), np.float32)
    grid = np.stack([ones * x_out, ones * y_out[:, None], ones], -1)  # (h', w', 3)
    matrices = np.broadcast_to(transform_matrix, (x.shape[0], 6)).reshape(-1, 1, 2, 3)
    coordinates = grid @ np.swapaxes(matrices, -1, -2)
    return resample(
        x,
        coordinates,
        sampling_mode,
        padding_mode,
        padding_value,
        coordinates_mode,
        align_corners,
    )


def _corners(size: int, align_corners: Any) -> Array:
    """Coordinates from −1 to 1 of `size` pixels, whose centres or edges lie at the ends."""
    i = np.arange(size, dtype=np.float32)
    if not align_corners:
        return (2 * i + 1) / size - 1
    return 2 * i / max(1, size - 1) - 1


def _box_ends(corners: Array, mode: Any) -> tuple[Array, Array, Array, Array]:
    """(top, bottom, left, right) of boxes (n, 4) in one of their four conventions."""
    a, b, c, d = corners.astype(np.float32).T
    match str(mode):
        case "CORNERS_HEIGHT_FIRST":
            return a, c, b, d
        case "CORNERS_WIDTH_FIRST":
            return b, d, a, c
        case "CENTER_SIZE_HEIGHT_FIRST":
            return a - c / 2, a + c / 2, b - d / 2, b + d / 2
        case "CENTER_SIZE_WIDTH_FIRST":
            return b - d / 2, b + d / 2, a - c / 2, a + c / 2
        case other:
            raise UnsupportedOperation(
                f"Box coordinate mode {other!r} is not known; allowed are CORNERS_HEIGHT_FIRST, "
                "CORNERS_WIDTH_FIRST, CENTER_SIZE_HEIGHT_FIRST and CENTER_SIZE_WIDTH_FIRST."
            )


def _along_box(first: Array, last: Array, count: int, sampling: str) -> Array:
    """Positions (n, count) of the samples between pixels `first` and `last`, which may lie in
    reverse order."""
    direction = np.where(last < first, -1, 1)
    sizes = np.abs(last - first) + 1
    steps = np.stack([positions(float(size), count, sampling) for size in sizes])
    return np.asarray(first[:, None] + direction[:, None] * steps)


@register("crop_resize")
def crop_resize(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    roi: Array | None = None,
    boxes: Array | None = None,
    box_indices: Array | None = None,
    target_height: Any = 1,
    target_width: Any = 1,
    normalized_coordinates: Any = False,
    spatial_scale: Any = 1.0,
    box_coordinate_mode: Any = "CORNERS_HEIGHT_FIRST",
    sampling_mode: Any = "DEFAULT",
    pad_value: Any = 0.0,
) -> Array:
    """Parts of x (b, c, h, w), resized by interpolation; samples outside of x are `pad_value`.

    `boxes` (n, 4) are of the images `box_indices`, or 0, 1, … : (n, c, h', w'). The older `roi`
    (n, 1, 5, 1, 1) begins with the image: (n, 1, c, h', w'); (n, 1, 4, 1, 1) is cut from each
    image: (n, b, c, h', w').
    """
    given = boxes if boxes is not None else np.asarray(roi).reshape(len(np.asarray(roi)), -1)
    indices = np.arange(len(given)) if box_indices is None else box_indices
    images = [[int(image)] for image in indices]
    if boxes is None and given.shape[1] == 5:
        images, given = [[int(image)] for image in given[:, 0]], given[:, 1:]
    elif boxes is None:
        images = [list(range(x.shape[0]))] * len(given)
    top, bottom, left, right = (
        end * np.float32(spatial_scale) for end in _box_ends(given, box_coordinate_mode)
    )
    height, width = x.shape[2:]
    if normalized_coordinates:
        top, bottom, left, right = (
            *(end * (height - 1) for end in (top, bottom)),
            *(end * (width - 1) for end in (left, right)),
        )
    y_at = _along_box(top, bottom, int(target_height), str(sampling_mode))
    x_at = _along_box(left, right, int(target_width), str(sampling_mode))
    crops = [
        np.stack([_cut(x[image], rows, columns, pad_value) for image in chosen])
        for chosen, rows, columns in zip(images, y_at, x_at, strict=True)
    ]
    result = np.stack(crops) if crops else np.zeros((0, 1, *x.shape[1:]), np.float32)
    return result if boxes is None else result[:, 0]


def _cut(x: Array, rows: Array, columns: Array, outside: Any) -> Array:
    """Samples of x (c, h, w) on a grid; those that lie outside are `outside` throughout."""
    height, width = x.shape[1:]
    inside = (rows >= 0)[:, None] & (rows <= height - 1)[:, None]
    inside = inside & (columns >= 0) & (columns <= width - 1)
    y_at, x_at = np.meshgrid(rows, columns, indexing="ij")
    return np.where(inside, _bilinear(x, y_at, x_at, 0), np.float32(outside))
