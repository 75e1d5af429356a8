"""The blocks of the vision tower: patches and position embeddings of one view -> features."""

from __future__ import annotations

from collections.abc import Mapping

from export.graphs.graph import Ops, Parameter, Value
from export.graphs.parameters import flattened, stored
from export.models.config import VisionConfig


def vision_encoder_layer(ops: Ops, x: Value, mask: Value, config: VisionConfig, n: int) -> Value:
    """Apply block `n` of the tower."""
    size, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
    layer = f"vpm.encoder.layers.{n}"

    def layer_of(name: str, rows: int, columns: int) -> tuple[Parameter, Parameter]:
        weight = stored(f"{layer}.{name}.weight", rows, columns)
        return weight, stored(f"{layer}.{name}.bias", rows)

    def norm(y: Value, name: str) -> Value:
        scale, shift = stored(f"{layer}.{name}.weight", size), stored(f"{layer}.{name}.bias", size)
        return ops.layer_norm(y, scale, shift, eps)

    h = norm(x, "layer_norm1")
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    projected = ops.linears(h, [layer_of(name, size, size) for name in names])
    q, k, v = (ops.heads(values, config.num_heads) for values in projected)
    attended = ops.attend(q, k, v, mask, (size // config.num_heads) ** -0.5)
    x = ops.add(x, ops.linear(attended, *layer_of("self_attn.out_proj", size, size)))
    h = ops.gelu_tanh(ops.linear(norm(x, "layer_norm2"), *layer_of("mlp.fc1", inner, size)))
    return ops.add(x, ops.linear(h, *layer_of("mlp.fc2", size, inner)))


def encode_patches(
    ops: Ops, inputs: Mapping[str, Value], config: VisionConfig, layers: range
) -> Mapping[str, Value]:
    """Run blocks `layers` on patches and their position embeddings, or on hidden states.

    The last block is followed by the norm that gives `image_features`.
    """
    if layers.start == 0:
        x = ops.add(_embed(ops, inputs["patches"], config), inputs["position_embeddings"])
    else:
        x = inputs["hidden_states"]
    for n in layers:
        x = vision_encoder_layer(ops, x, inputs["attention_mask"], config, n)
    if layers.stop < config.num_layers:
        return {"output_hidden_states": x}
    name, size = "vpm.post_layernorm", config.hidden_size
    scale, shift = stored(f"{name}.weight", size), stored(f"{name}.bias", size)
    return {"image_features": ops.layer_norm(x, scale, shift, config.layer_norm_eps)}


def _embed(ops: Ops, patches: Value, config: VisionConfig) -> Value:
    name, columns = "vpm.embeddings.patch_embedding", 3 * config.patch_size**2
    weight: Parameter = flattened(f"{name}.weight", config.hidden_size, columns)
    return ops.linear(patches, weight, stored(f"{name}.bias", config.hidden_size))
