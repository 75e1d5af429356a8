"""Choosing boxes of a detector."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register


def _overlap(box: Array, others: Array) -> Array:
    """Intersection over union of a box and `others` (n, 4), given by centres and sizes; 0 for boxes
    without an area."""
    low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
    lows, highs = others[:, :2] - others[:, 2:] / 2, others[:, :2] + others[:, 2:] / 2
    shared = np.maximum(0, np.minimum(high, highs) - np.maximum(low, lows)).prod(-1)
    areas, area = others[:, 2:].prod(-1), box[2:].prod()
    union = areas + area - shared
    has_area = (areas > 0) & (area > 0)
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=has_area))


def apart(boxes: Array, order: Array, groups: Array, most_overlap: float, most: int) -> list[int]:
    """Positions of at most `most` boxes, taken in `order`, each if it overlaps none of its group
    that was taken before by more than `most_overlap` of the union. `boxes` (n, 4) are centres and
    sizes; `groups` (n,)."""
    kept: list[int] = []
    left = order
    while left.size and len(kept) < most:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        near = _overlap(boxes[best], boxes[left]) > most_overlap
        left = left[~(near & (groups[left] == groups[best]))]
    return kept


def _chosen(
    boxes: Array, scores: Array, overlap: float, least: float, most: int, per_class: bool
) -> list[int]:
    """Positions of the boxes that stay, best first: at least one, at most `most`."""
    best, classes = scores.max(-1), scores.argmax(-1)
    order = np.argsort(-best, kind="stable")
    groups = classes if per_class else np.zeros_like(classes)
    kept = apart(boxes, order[best[order] > least], groups, overlap, most)
    return kept or [int(best.argmax())]


@register("non_maximum_suppression", result="copied")
def non_maximum_suppression(
    boxes: Array,
    scores: Array,
    iou_threshold: Any,
    max_boxes: Any,
    score_threshold: Any = None,
    per_class_suppression: Any = False,
) -> tuple[Array, ...]:
    """Boxes by falling score without those that overlap a better one (of their class) too much.

    With a `score_threshold`, boxes (n, b, 4) and scores (n, b, classes); without one the last two
    axes are the other way round. Gives boxes, scores, positions, and with a threshold their number;
    after the last box stand zeros and position −1.
    """
    is_flipped = score_threshold is None
    if is_flipped:
        boxes, scores = np.swapaxes(boxes, 1, 2), np.swapaxes(scores, 1, 2)
    least = -np.inf if score_threshold is None else float(score_threshold)
    most = int(max_boxes)
    chosen_boxes = np.zeros((len(boxes), most, 4), np.float32)
    chosen_scores = np.zeros((len(boxes), most, scores.shape[2]), np.float32)
    positions = np.full((len(boxes), most), -1, np.int32)
    counts = np.zeros(len(boxes), np.int32)
    for n in range(len(boxes)):
        kept = _chosen(
            boxes[n], scores[n], float(iou_threshold), least, most, bool(per_class_suppression)
        )[:most]
        chosen_boxes[n, : len(kept)] = boxes[n, kept]
        chosen_scores[n, : len(kept)] = scores[n, kept]
        positions[n, : len(kept)] = kept
        counts[n] = len(kept)
    if is_flipped:
        return np.swapaxes(chosen_boxes, 1, 2), np.swapaxes(chosen_scores, 1, 2), positions
    return chosen_boxes, chosen_scores, positions, counts
