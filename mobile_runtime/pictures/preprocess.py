"""The published image processor: an RGB picture in, views cut for the vision graph out.

A view is the whole picture scaled down (the overview) or one cell of its slice grid. Arithmetic
is that of the published code: float64, half-to-even rounding, truncation, PIL's bicubic filter.
It knows neither files nor graphs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobile_runtime.bundle import Preprocessing
from mobile_runtime.errors import InputError

Size = tuple[int, int]  # (width, height) or (columns, rows), as in Pillow


@dataclass(frozen=True)
class SlicePlan:
    """Sizes in pixels; `grid` is (columns, rows), None if the overview is the only view."""

    overview_size: Size
    grid: Size | None
    refine_size: Size | None  # the size that is cut into the grid's cells


@dataclass(frozen=True, eq=False)
class View:
    """One picture for the vision graph, of whole patches. Its pixels are normalised when they are
    asked for: a film has hundreds of views, and floats take four times the memory."""

    pixels: NDArray[np.uint8]  # (patch·h, patch·w, channels)
    config: Preprocessing

    @property
    def tgt_size(self) -> tuple[int, int]:
        """(h, w) in patches."""
        height, width, _ = self.pixels.shape
        return height // self.config.patch_size, width // self.config.patch_size

    @property
    def strip(self) -> NDArray[np.float32]:
        """Normalised pixels (channels, patch, patch·L) with the L = h·w patches side by side, in
        row-major order."""
        (h, w), patch = self.tgt_size, self.config.patch_size
        pixels: NDArray[np.float32] = self.pixels.astype(np.float32) / np.float32(255)
        pixels -= np.array(self.config.norm_mean, dtype=np.float32)
        pixels /= np.array(self.config.norm_std, dtype=np.float32)
        tiles = pixels.reshape(h, patch, w, patch, 3).transpose(4, 1, 0, 2, 3)
        return tiles.reshape(3, patch, h * w * patch)  # before: (channel, y, row, column, x)


def view_of_strip(strip: NDArray[np.float32], size: tuple[int, int], config: Preprocessing) -> View:
    """The view of `size` (h, w) in patches whose `strip` this is, to the last bit."""
    (h, w), patch = size, config.patch_size
    tiles = strip.reshape(3, patch, h, w, patch).transpose(2, 1, 3, 4, 0)
    values = tiles.reshape(h * patch, w * patch, 3).astype(np.float64)
    shown = (values * np.array(config.norm_std) + np.array(config.norm_mean)) * 255
    return View(np.rint(shown).clip(0, 255).astype(np.uint8), config)


def plan_slices(
    width: int, height: int, config: Preprocessing, max_slice_nums: int | None = None
) -> SlicePlan:
    """Decide how a picture of `width` × `height` pixels is scaled and sliced.

    `max_slice_nums` (≥ 1) replaces the published limit; video frames use 1. Raises `InputError` for
    a picture without pixels, or a limit below 1.
    """
    if width < 1 or height < 1:
        raise InputError(
            f"The picture is {width}×{height} pixels; give one with at least one pixel."
        )
    limit = config.max_slice_nums if max_slice_nums is None else max_slice_nums
    if limit < 1:
        raise InputError(f"max_slice_nums is {limit}; it must be at least 1.")
    if not config.slice_mode:
        raise InputError("The bundle has slice_mode false; only models with slice_mode true work.")
    grid = _best_grid(width, height, config.scale_resolution, limit)
    overview = _best_resize(width, height, config)
    if grid is None:
        return SlicePlan(overview, None, None)
    columns, rows = grid
    refined = (_ensure_divide(width, columns), _ensure_divide(height, rows))
    cell = _best_resize(refined[0] / columns, refined[1] / rows, config)
    return SlicePlan(overview, grid, (cell[0] * columns, cell[1] * rows))


def _ensure_divide(length: float, divisor: int) -> int:
    return max(round(length / divisor) * divisor, divisor)


def _best_resize(width: float, height: float, config: Preprocessing) -> Size:
    """The size of nearly scale_resolution² pixels and the same aspect, in whole patches.

    The published code can also keep smaller sizes as they are. It does so only for overviews of
    pictures with slices, which are never smaller: here, all sizes are scaled.
    """
    ratio = width / height
    new_height = int(config.scale_resolution / math.sqrt(ratio))
    new_width = int(new_height * ratio)
    patch = config.patch_size
    return _ensure_divide(new_width, patch), _ensure_divide(new_height, patch)


def _best_grid(width: int, height: int, scale: int, limit: int) -> Size | None:
    """The (columns, rows) whose aspect is nearest on a log scale, the first if several are."""
    multiple = min(math.ceil(width * height / (scale * scale)), limit)
    if multiple <= 1:
        return None
    log_ratio = math.log(width / height)
    counts = (n for n in (multiple - 1, multiple, multiple + 1) if n != 1 and n <= limit)
    grids = [(m, n // m) for n in counts for m in range(1, n + 1) if n % m == 0]
    return min(grids, key=lambda grid: abs(log_ratio - math.log(grid[0] / grid[1])))


def preprocess_image(
    image: Image.Image, config: Preprocessing, max_slice_nums: int | None = None
) -> list[View]:
    """Scale and slice a picture: the overview, then its slices in row-major order."""
    plan = plan_slices(image.width, image.height, config, max_slice_nums)
    return cut_image(image.convert("RGB"), plan, config)


def cut_image(image: Image.Image, plan: SlicePlan, config: Preprocessing) -> list[View]:
    """Scale and slice an RGB or RGBX picture as `plan_slices` has decided."""
    views = [_view(image.resize(plan.overview_size, Image.Resampling.BICUBIC), config)]
    if plan.grid is not None and plan.refine_size is not None:
        refined = image.resize(plan.refine_size, Image.Resampling.BICUBIC)
        views += [_view(cell, config) for cell in _cells(refined, plan.grid)]
    return views


def _cells(image: Image.Image, grid: Size) -> list[Image.Image]:
    columns, rows = grid
    width, height = image.width // columns, image.height // rows
    corners = [(x * width, y * height) for y in range(rows) for x in range(columns)]
    return [image.crop((x, y, x + width, y + height)) for x, y in corners]


def _view(image: Image.Image, config: Preprocessing) -> View:
    return View(np.asarray(image.convert("RGB")), config)


def patches(view: View) -> NDArray[np.float32]:
    """The view as one column per patch, (channels·patch², L); a column is ordered (c, y, x)."""
    channels, patch, width = view.strip.shape
    tiles = view.strip.reshape(channels, patch, width // patch, patch)
    return tiles.transpose(0, 1, 3, 2).reshape(channels * patch * patch, width // patch)


def check_plan(plan: SlicePlan, config: Preprocessing) -> None:
    """Raises `InputError` if a view would have more patches than the exported vision graph takes:
    before anything is scaled, which may take more memory than there is."""
    sizes = [plan.overview_size]
    if plan.grid is not None and plan.refine_size is not None:
        (columns, rows), (width, height) = plan.grid, plan.refine_size
        sizes.append((width // columns, height // rows))
    for width, height in sizes:
        _check_patches(height // config.patch_size, width // config.patch_size, config)


def check_view(view: View, config: Preprocessing) -> None:
    """Raises `InputError` for a view with more patches than the exported vision graph takes."""
    _check_patches(*view.tgt_size, config)


def _check_patches(h: int, w: int, config: Preprocessing) -> None:
    if h * w > config.max_patches:
        patch = config.patch_size
        raise InputError(
            f"The picture scales to {w * patch}×{h * patch} pixels, {h * w} patches, and the "
            f"bundle takes {config.max_patches}; crop the picture to a less extreme aspect."
        )
