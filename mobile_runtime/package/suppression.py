"""Non-maximum suppression as a model of a pipeline: of boxes that overlap, the best one is kept.

The rules are those of Apple's NonMaximumSuppression.proto: boxes whose confidence is below a
threshold go; of the rest the best is kept, and what overlaps it by more than a threshold goes, and
so on. With `perClass`, boxes suppress those of their own class only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mobile_runtime.engines.mil.ops.detection import apart
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.description import Feature
from mobile_runtime.mlprogram.dtypes import Array
from mobile_runtime.mlprogram.model_file import ModelFile
from mobile_runtime.package.model import OpenModel, State


class SuppressionModel(OpenModel):
    """One suppression: confidences (boxes, classes) and coordinates (boxes, 4), which are the
    centre's x and y, width and height, to the kept rows of both, the most confident first."""

    def __init__(self, file: ModelFile, message: Any) -> None:
        super().__init__(file, message)
        self._rule = message.nonMaximumSuppression
        outputs = self.description.interface(None, self._name).outputs
        bounds = [_rows(feature) for feature in outputs]
        self._least = max((least for least, _ in bounds), default=0)
        limits = [most for _, most in bounds if most is not None]
        self._most = min(limits) if limits else None

    @property
    def input_names(self) -> tuple[str, ...]:
        """Confidences and coordinates, and the thresholds that a caller may give."""
        rule = self._rule
        names = (
            *(rule.confidenceInputFeatureName, rule.coordinatesInputFeatureName),
            *(rule.iouThresholdInputFeatureName, rule.confidenceThresholdInputFeatureName),
        )
        return tuple(filter(None, names))

    def run(
        self,
        given: Mapping[str, Any],
        function: str | None = None,
        state: State | None = None,
        keep: Collection[str] = (),
    ) -> dict[str, Any]:
        """The kept rows by the names of the outputs, padded with zeros to the fewest rows that the
        outputs may have, and cut to the most."""
        rule = self._rule
        confidence = self._matrix(given, rule.confidenceInputFeatureName, None)
        boxes = self._matrix(given, rule.coordinatesInputFeatureName, 4)
        if len(confidence) != len(boxes):
            raise InputError(
                f"{self._name}: the suppression got {len(confidence)} confidences and {len(boxes)} "
                "boxes; give as many of both."
            )
        kept = suppress(
            confidence,
            boxes,
            self._threshold(given, rule.iouThresholdInputFeatureName, rule.iouThreshold),
            self._threshold(
                given, rule.confidenceThresholdInputFeatureName, rule.confidenceThreshold
            ),
            rule.pickTop.perClass,
        )[: self._most]
        padding = ((0, max(0, self._least - len(kept))), (0, 0))
        return {
            rule.confidenceOutputFeatureName: np.pad(confidence[kept], padding),
            rule.coordinatesOutputFeatureName: np.pad(boxes[kept], padding),
        }

    def _matrix(self, given: Mapping[str, Any], name: str, columns: int | None) -> Array:
        value = np.asarray(given.get(name))
        fits = value.ndim == 2 and value.dtype.kind in "iuf" and columns in (None, value.shape[1])
        if not fits:
            raise InputError(
                f"{self._name}: the suppression got {value.dtype} of shape {value.shape} for "
                f"{name}; it takes numbers, boxes × {columns or 'classes'}."
            )
        return value

    def _threshold(self, given: Mapping[str, Any], name: str, default: float) -> float:
        """What the caller gives, if the model has such an input, or the model's own threshold."""
        value = np.asarray(given.get(name, default))
        if value.size != 1 or value.dtype.kind not in "iuf" or not float(value.item()) >= 0:
            raise InputError(
                f"{self._name} got {str(value)[:40]} for {name}; give one number, 0 or more."
            )
        return float(value.item())


def suppress(
    confidence: Array, boxes: Array, most_overlap: float, least_confidence: float, per_class: bool
) -> Array:
    """Indices of the boxes that are kept, the most confident first.

    `confidence` is (boxes, classes); a box has the class and the confidence of its largest.
    `boxes` is (boxes, 4): x and y of the centre, width, height. A box goes if the intersection with
    a better one is more than `most_overlap` of the union.
    """
    scores = confidence.max(axis=1, initial=0).astype(np.float64)
    classes = confidence.argmax(axis=1) if confidence.shape[1] else np.zeros(len(scores), np.intp)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= least_confidence]
    whole = boxes.astype(np.float64)
    groups = classes if per_class else np.zeros_like(classes)
    return np.array(apart(whole, order, groups, most_overlap, len(order)), np.intp)


def _rows(feature: Feature) -> tuple[int, int | None]:
    """How many rows an output may have."""
    if feature.ranges:
        return feature.ranges[0].least, feature.ranges[0].most
    return (feature.shape[0], feature.shape[0]) if feature.shape else (0, None)
