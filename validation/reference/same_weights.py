"""The checkpoint as a bundle stores it: every tensor quantized by the recipe and expanded again.

Repeats each fold, split and padding of the exporter, so that a reference with these weights
differs from the bundle by arithmetic alone.
"""

from __future__ import annotations

import numpy as np

from export.checkpoint.checkpoint import Checkpoint
from export.graphs.graph import Parameter
from export.graphs.parameters import KEY_QUERY, POSITION_EMBEDDING, row_block, stored
from export.models.config import ModelConfig
from export.plan import Plan
from export.quant.quantize import quantize
from export.quant.recipes import EMBED_TOKENS

Array = np.ndarray
_HEAD = "llm.lm_head."
_V_PROJ = "resampler.attn.v_proj."


class SameWeights:
    """A tensor source in the checkpoint's names and shapes, with the bundle's values."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, plan: Plan) -> None:
        self._checkpoint, self._plan = checkpoint, plan
        vision = config.vision
        table = stored(POSITION_EMBEDDING, vision.position_buckets**2, vision.hidden_size)
        graphs = (p for graph in plan.graphs for p in graph.parameters)
        self._parameters = {p.name: p for p in (*graphs, table)}

    def read(self, name: str) -> Array:
        """The tensor called `name` in the checkpoint, float32, as the bundle has it."""
        shape = self._checkpoint.tensors[name].shape if name in self._checkpoint.tensors else ()
        if name in (EMBED_TOKENS, _HEAD + "weight"):
            return self.read_rows(name, 0, shape[0])
        if name.startswith("resampler.attn.in_proj_"):
            return self._in_proj(name)
        if name == "resampler.proj":
            return np.ascontiguousarray(self._expand(self._parameters[name]).T)
        if name not in self._parameters:  # used through a fold alone
            return self._checkpoint.read(name).astype(np.float32)
        return self._expand(self._parameters[name]).reshape(shape)

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Rows of a matrix; of the tables over the vocabulary, no others are touched."""
        if name == EMBED_TOKENS:
            block = row_block(name, name, begin, end, self._checkpoint.tensors[name].shape[1])
            return self._expand(block)
        if name == _HEAD + "weight":
            return self._head_rows(begin, end)
        return self.read(name)[begin:end]

    def key_query(self) -> Array:
        """The folded queries of the resampler."""
        return self._expand(self._parameters[KEY_QUERY])

    def _expand(self, parameter: Parameter) -> Array:
        spec = self._plan.specs.get(parameter.name)
        return np.asarray(quantize(parameter, self._checkpoint, spec).dequantize())

    def _head_rows(self, begin: int, end: int) -> Array:
        """The head is quantized slice by slice, each padded to the same number of rows."""
        rows = self._parameters[f"{_HEAD}00.weight"].shape[0]
        slices = range(begin // rows, -(-end // rows))
        found = [self._expand(self._parameters[f"{_HEAD}{n:02d}.weight"]) for n in slices]
        return np.concatenate(found)[begin - slices.start * rows :][: end - begin]

    def _in_proj(self, name: str) -> Array:
        """Only the value third is in the bundle as such; query and key are folded."""
        tensor = self._checkpoint.read(name).astype(np.float32)
        kind = name.removeprefix("resampler.attn.in_proj_")
        values = self._expand(self._parameters[_V_PROJ + kind])
        tensor[2 * len(values) :] = values
        return tensor
