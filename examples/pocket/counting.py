"""Counting shapes place by place: the targets of patches and queries, and the loss.

A picture's number alone leaves open which shape was missed. Each patch belongs to the shape that is
nearest, each query to the shapes about its column; their parts should add up to these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from validation.questions.shapes import COLOURS, SHAPES

KINDS = len(SHAPES) + len(COLOURS)
_MARGIN = 0.5  # columns between a shape's middle and a border of its cell of queries
_SMALL = 0.25  # of a shape: errors below it count by their square, larger ones by their size
_Numbers = NDArray[np.int64]
_Places = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """The cell of each place (n,), and the shapes of each kind and colour in it (cells, KINDS)."""

    cells: _Numbers
    shapes: _Numbers


def nearest(places: _Places, kinds: _Numbers, grid: tuple[int, int]) -> Counts:
    """Patches of `grid` (rows, columns) by the nearest of the shapes at `places` (n, 2), across and
    down in fractions of the view; `kinds` (n, KINDS) marks what each is. All are one cell if there
    is no shape."""
    rows, columns = grid
    if not len(places):
        return Counts(np.zeros(rows * columns, np.int64), np.zeros((1, KINDS), np.int64))
    y, x = np.mgrid[:rows, :columns] + 0.5
    away = np.stack([x, y], -1).reshape(-1, 1, 2) - places * (columns, rows)
    return Counts(np.hypot(*np.moveaxis(away, -1, 0)).argmin(1), kinds)


def by_columns(places: _Places, kinds: _Numbers, columns: int, queries: int) -> Counts:
    """Queries, each about a column of the view, in cells between columns at whose border no shape
    has its middle: which of two neighbours tells such a shape is left to them."""
    middles = places[:, 0] * columns
    borders = np.arange(1, min(columns, queries))
    free = borders[(np.abs(borders[:, None] - middles) > _MARGIN).all(1)]
    shapes = np.zeros((len(free) + 1, KINDS), np.int64)
    np.add.at(shapes, np.searchsorted(free, middles), kinds)
    return Counts(np.searchsorted(free, np.arange(queries), side="right"), shapes)


@dataclass(frozen=True)
class CountTargets:
    """The counts of several pictures as one: the cell of each place (n,), the shapes in each cell
    (cells, KINDS), its picture (cells,), and how many pictures have shapes."""

    cells: Tensor
    shapes: Tensor
    pictures: Tensor
    with_shapes: int


def join_counts(counts: Sequence[Counts]) -> CountTargets:
    """One target of all `counts`, in order."""
    sizes = [len(each.shapes) for each in counts]
    first = np.cumsum([0, *sizes])  # cell of each picture
    cells = [each.cells + n for each, n in zip(counts, first[:-1], strict=True)]
    shapes = [np.zeros((0, KINDS)), *(each.shapes for each in counts)]
    return CountTargets(
        torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *cells])),
        torch.from_numpy(np.concatenate(shapes)).float(),
        torch.from_numpy(np.repeat(np.arange(len(counts)), sizes)),
        sum(bool(each.shapes.any()) for each in counts),
    )


def counting_loss(logits: Tensor, targets: CountTargets) -> Tensor:
    """Return the loss of `logits` (n, KINDS), those of all places in order, against `targets`.

    Softplus turns each logit into a part of a count. The parts of a cell's places should add up to
    the shapes in the cell, however the places share them, and the parts of all cells to the shapes
    of the picture. The second sum is needed because the decoder adds up by attending to all places
    alike, where small errors of many empty cells count as well.
    """
    off = (-targets.shapes).index_add(0, targets.cells, functional.softplus(logits))
    whole = torch.zeros_like(off).index_add(0, targets.pictures, off)  # the last rows stay zero
    # A mean over pictures with shapes: most have none, and that is learned soon.
    return (_size(off) + _size(whole)) / max(1, targets.with_shapes)


def _size(errors: Tensor) -> Tensor:
    zeros = torch.zeros_like(errors)
    return functional.smooth_l1_loss(errors, zeros, reduction="sum", beta=_SMALL)
