"""The end of a classifier: the label of the largest probability, and a probability for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register


@register("classify", result="object")
def classify(probabilities: Array, classes: Array) -> tuple[Any, dict[Any, float]]:
    """The label with the largest probability, the first of equal ones, and a dictionary from labels
    to probabilities, in the order of the labels: what coremltools' `MLModel.predict` gives. Labels
    are `str` or `int`."""
    labels, values = classes.tolist(), np.ravel(probabilities).tolist()
    return labels[int(np.argmax(values))], dict(zip(labels, values, strict=True))
