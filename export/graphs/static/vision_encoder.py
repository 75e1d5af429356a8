"""The vision tower as packages of static length.

The host cuts the patches and looks up the position embeddings, so the graphs hold no gather.
"""

from __future__ import annotations

from collections.abc import Mapping

from export.graphs.bodies import Bodies
from export.graphs.graph import Function, Graph, Ops, Value
from export.models.config import VisionConfig
from mobile_runtime.bundle import TensorSpec


def vision_encoder_graph(
    bodies: Bodies, config: VisionConfig, max_patches: int, layers: range, name: str
) -> Graph:
    """The package of `layers`; the first embeds the patches, the last normalises."""
    size, length = config.hidden_size, max_patches
    first, last = layers.start == 0, layers.stop == config.num_layers
    patch_values = 3 * config.patch_size**2

    def body(ops: Ops, inputs: Mapping[str, Value]) -> Mapping[str, Value]:
        return bodies.encode_patches(ops, inputs, config, layers)

    mask = TensorSpec("attention_mask", (1, 1, 1, length), "float16")
    hidden = (1, size, 1, length)
    inputs = (
        (
            TensorSpec("patches", (1, patch_values, 1, length), "float16"),
            TensorSpec("position_embeddings", hidden, "float16"),
        )
        if first
        else (TensorSpec("hidden_states", hidden, "float16"),)
    )
    output = TensorSpec("image_features" if last else "output_hidden_states", hidden, "float16")
    function = Function("main", (*inputs, mask), (output,), body)
    return Graph(name, "vision_encoder", (function,), (), layers)
