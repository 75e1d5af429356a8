"""Shapes counted place by place: whose each patch and query is, and what the parts add up to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from examples.pocket.counting import KINDS, Counts, by_columns, counting_loss, join_counts, nearest

PLACES = np.array([[0.11, 0.5], [0.62, 0.25], [0.63, 0.75]])  # across and down
SHAPES = np.eye(KINDS, dtype=np.int64)[[0, 1, 1]]


def test_a_patch_belongs_to_the_nearest_shape():
    counts = nearest(PLACES, SHAPES, (4, 8))
    across, down = np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(4) + 0.5) / 4)
    for x, y, cell in zip(across.flat, down.flat, counts.cells, strict=True):
        away = [math.hypot(8 * (x - a), 4 * (y - b)) for a, b in PLACES]
        assert away[cell] == min(away)
    assert (counts.shapes == SHAPES).all()


def test_queries_about_a_column_border_share_its_shape():
    """Middles lie in columns at 0.88, 4.96 and 5.04 of 8: no cell ends at 1 or at 5."""
    counts = by_columns(PLACES, SHAPES, columns=8, queries=10)
    assert counts.cells.tolist() == [0, 0, 1, 2, 3, 3, 4, 5, 5, 5]
    assert np.flatnonzero(counts.shapes.any(1)).tolist() == [0, 3]
    assert counts.shapes[0].tolist() == SHAPES[0].tolist()
    assert counts.shapes[3].tolist() == (2 * SHAPES[1]).tolist()
    # Columns without a query of their own are the last one's.
    assert by_columns(PLACES, SHAPES, columns=8, queries=3).shapes.sum() == len(PLACES)


def test_without_shapes_all_places_add_up_to_nothing():
    none = np.zeros((0, 2)), np.zeros((0, KINDS), np.int64)
    for counts in (nearest(*none, (3, 4)), by_columns(*none, columns=4, queries=12)):
        assert len(counts.cells) == 12
        assert not counts.shapes.any()
        assert set(counts.cells) == set(range(len(counts.shapes)))


def test_the_parts_of_a_cell_add_up_to_its_shapes():
    cells = np.array([0, 1, 1, 1, 1])
    shapes = np.stack([np.arange(KINDS), 0 * np.arange(KINDS)])
    eighths = torch.full((5, KINDS), math.log(math.expm1(0.125)))  # before softplus
    off = np.array([[0.125], [0.5]]) - shapes
    expected = _sizes(off).sum() + _sizes(off.sum(0)).sum()
    assert counting_loss(eighths, join_counts([Counts(cells, shapes)])).item() == pytest.approx(
        expected
    )
    told = Counts(cells, np.full((2, KINDS), [[0.125], [0.5]]))
    assert counting_loss(torch.cat([eighths, eighths]), join_counts([told, told])) < 1e-10


def _sizes(errors):
    """Squares over half a shape below a quarter of one, else what lies beyond an eighth."""
    errors = abs(errors)
    return np.where(errors < 0.25, errors**2 / 0.5, errors - 0.125)
