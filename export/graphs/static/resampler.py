"""The 3D resampler as one package: one function per number of frames in a group.

`score_bias` holds everything that depends on positions: key_query · (P + T) for each patch, with
its 2D position embedding P and its temporal embedding T, and the mask of padded patches. The host
computes it from the folded queries.
"""

from __future__ import annotations

from collections.abc import Mapping

from export.graphs.bodies import Bodies
from export.graphs.graph import Function, Graph, Ops, Value
from export.graphs.parameters import key_query
from export.models.config import ModelConfig
from mobile_runtime.bundle import TensorSpec


def resampler_graph(bodies: Bodies, config: ModelConfig, max_patches: int, name: str) -> Graph:
    """The package; function `frames_n` takes n frames side by side along the length."""
    frames = range(1, config.max_frames + 1)
    functions = tuple(_function(bodies, config, max_patches, n) for n in frames)
    return Graph(name, "resampler", functions, (), range(1))


def _function(bodies: Bodies, config: ModelConfig, max_patches: int, frames: int) -> Function:
    size, length = config.decoder.hidden_size, frames * max_patches
    score_rows = config.resampler_heads * config.num_queries

    def body(ops: Ops, inputs: Mapping[str, Value]) -> Mapping[str, Value]:
        def scores(x: Value) -> Value:
            return ops.add(ops.linear(x, key_query(config)), inputs["score_bias"])

        return {"image_embeds": bodies.resample(ops, inputs["image_features"], scores, config)}

    inputs = (
        TensorSpec("image_features", (1, config.vision.hidden_size, 1, length), "float16"),
        TensorSpec("score_bias", (1, score_rows, 1, length), "float16"),
    )
    output = TensorSpec("image_embeds", (1, size, 1, config.num_queries), "float16")
    return Function(f"frames_{frames}", inputs, (output,), body)
