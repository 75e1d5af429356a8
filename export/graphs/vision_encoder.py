"""The vision tower as graphs: patches and position embeddings of one view in, features out.

The host cuts the patches and looks up the position embeddings, so the graph holds no gather.
"""

from __future__ import annotations

from collections.abc import Mapping

from export.graphs.graph import Function, Graph, Ops, Parameter, Value
from export.graphs.parameters import flattened, stored
from export.models.config import VisionConfig
from mobile_runtime.bundle import TensorSpec


def vision_encoder_layer(ops: Ops, x: Value, mask: Value, config: VisionConfig, n: int) -> Value:
    """Block `n` of the tower."""
    size, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
    layer = f"vpm.encoder.layers.{n}"

    def linear(y: Value, name: str, rows: int, columns: int) -> Value:
        weight = stored(f"{layer}.{name}.weight", rows, columns)
        return ops.linear(y, weight, stored(f"{layer}.{name}.bias", rows))

    def norm(y: Value, name: str) -> Value:
        scale, shift = stored(f"{layer}.{name}.weight", size), stored(f"{layer}.{name}.bias", size)
        return ops.layer_norm(y, scale, shift, eps)

    h = norm(x, "layer_norm1")
    q, k, v = (
        ops.heads(linear(h, f"self_attn.{name}", size, size), config.num_heads)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    q, k = ops.scaled(q, k, (size // config.num_heads) ** -0.5)
    x = ops.add(x, linear(ops.attend(q, k, v, mask), "self_attn.out_proj", size, size))
    h = ops.gelu_tanh(linear(norm(x, "layer_norm2"), "mlp.fc1", inner, size))
    return ops.add(x, linear(h, "mlp.fc2", size, inner))


def vision_encoder_graph(config: VisionConfig, max_patches: int, layers: range, name: str) -> Graph:
    """The package of `layers`; the first embeds the patches, the last normalises."""
    size, length = config.hidden_size, max_patches
    first, last = layers.start == 0, layers.stop == config.num_layers
    patch_values = 3 * config.patch_size**2

    def body(ops: Ops, inputs: Mapping[str, Value]) -> Mapping[str, Value]:
        if first:
            x = ops.add(_embed(ops, inputs["patches"], config), inputs["position_embeddings"])
        else:
            x = inputs["hidden_states"]
        for n in layers:
            x = vision_encoder_layer(ops, x, inputs["attention_mask"], config, n)
        if not last:
            return {"output_hidden_states": x}
        post = stored("vpm.post_layernorm.weight", size), stored("vpm.post_layernorm.bias", size)
        return {"image_features": ops.layer_norm(x, *post, config.layer_norm_eps)}

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


def _embed(ops: Ops, patches: Value, config: VisionConfig) -> Value:
    name, columns = "vpm.embeddings.patch_embedding", 3 * config.patch_size**2
    weight: Parameter = flattened(f"{name}.weight", config.hidden_size, columns)
    return ops.linear(patches, weight, stored(f"{name}.bias", config.hidden_size))
