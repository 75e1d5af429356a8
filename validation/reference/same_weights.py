"""The checkpoint as a bundle stores it: every tensor quantized by the plan and expanded again.

Every parameter of the bundle knows the inverse that gives its tensor back, so that a reference with
these weights differs from the bundle by arithmetic only.
"""

from __future__ import annotations

import numpy as np

from export.checkpoint.source import TensorSource
from export.graphs.graph import Inverse, Parameter
from export.graphs.parameters import KEY_QUERY, row_block
from export.graphs.weights import load_weight
from export.plan import Plan
from export.quant.weights import FORMS

Array = np.ndarray


class SameWeights:
    """A tensor reader in the checkpoint's names and shapes, with the bundle's values."""

    def __init__(self, source: TensorSource, plan: Plan) -> None:
        self._source, self._plan = source, plan
        self._parameters = {p.name: p for p in plan.parameters}  # packages may share some
        self._parts: dict[str, list[tuple[Parameter, Inverse]]] = {}
        for parameter in self._parameters.values():
            if (inverse := parameter.inverse) is not None:
                self._parts.setdefault(inverse.tensor, []).append((parameter, inverse))

    def read(self, name: str) -> Array:
        """The tensor called `name` in the checkpoint, float32, as the bundle has it. A tensor that
        the bundle holds only inside a fold is the checkpoint's own."""
        parts = self._parts.get(name, [])
        if len(parts) == 1 and parts[0][1].end is None:
            parameter, inverse = parts[0]
            values = inverse.restore(self._expand(parameter))
            return values.reshape(self._source.tensors[name].shape)
        tensor = self._source.read(name).astype(np.float32)
        for parameter, inverse in parts:
            values = self._rows(parameter, inverse, inverse.begin, len(tensor))
            tensor[inverse.begin : inverse.begin + len(values)] = values
        return tensor

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Rows of a matrix; other rows are expanded only if they share a table with these."""
        found = [
            self._rows(parameter, inverse, begin, end)
            for parameter, inverse in self._parts.get(name, [])
        ]
        if not found:
            return self._source.read_rows(name, begin, end).astype(np.float32)
        return np.concatenate(found)

    def key_query(self) -> Array:
        """The folded queries of the resampler."""
        return self._expand(self._parameters[KEY_QUERY])

    def _rows(self, parameter: Parameter, inverse: Inverse, begin: int, end: int) -> Array:
        """Return those of the rows `begin` to `end` of the tensor that the parameter holds."""
        own_end = inverse.begin + parameter.shape[0] if inverse.end is None else inverse.end
        first, last = max(begin, inverse.begin), max(begin, inverse.begin, min(end, own_end))
        if first == last:
            return np.zeros((0, *parameter.shape[1:]), np.float32)
        spec = self._plan.specs[parameter.name]
        if parameter.is_matrix and FORMS[spec.form].rows_are_independent:
            block = row_block(parameter.name, parameter.label, first, last, parameter.shape[1])
            return np.asarray(load_weight(block, self._source, spec).dequantize())
        return self._expand(parameter)[first - inverse.begin : last - inverse.begin]

    def _expand(self, parameter: Parameter) -> Array:
        spec = self._plan.specs[parameter.name]
        return np.asarray(load_weight(parameter, self._source, spec).dequantize())
