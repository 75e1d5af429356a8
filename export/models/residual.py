"""What of a model can be changed without changing the model: the decoder's residual stream, whose
basis and scale are free, and biases that a softmax cancels."""

from __future__ import annotations

from export.checkpoint.half_range import HalfRange
from export.checkpoint.rotation import ResidualStream
from export.models.config import ModelConfig
from export.models.tensors import EMBED_TOKENS, FINAL_NORM, LM_HEAD, TIED


def residual_stream(model: ModelConfig) -> ResidualStream:
    """The stream of a Qwen2 or Qwen3 decoder that a resampler feeds."""
    readers, writers = {LM_HEAD: FINAL_NORM}, []
    for n in range(model.decoder.num_layers):
        layer = f"llm.model.layers.{n}"
        for name in ("q_proj", "k_proj", "v_proj"):
            readers[f"{layer}.self_attn.{name}.weight"] = f"{layer}.input_layernorm.weight"
        for name in ("gate_proj", "up_proj"):
            readers[f"{layer}.mlp.{name}.weight"] = f"{layer}.post_attention_layernorm.weight"
        writers += [f"{layer}.self_attn.o_proj.weight", f"{layer}.mlp.down_proj.weight"]
    return ResidualStream(
        size=model.decoder.hidden_size,
        readers=readers,
        writers=tuple(writers),
        rows=(EMBED_TOKENS, "resampler.proj"),
        tied=TIED,
    )


def half_range(model: ModelConfig) -> HalfRange:
    """What makes activations smaller: what the stream is written from, and keys' biases in the
    vision tower, whose attention has no rotary embedding."""
    divided = [EMBED_TOKENS, "resampler.proj"]
    for n in range(model.decoder.num_layers):
        layer = f"llm.model.layers.{n}"
        divided += [f"{layer}.self_attn.o_proj.weight", f"{layer}.mlp.up_proj.weight"]
    layers = range(model.vision.num_layers)
    keys = tuple(f"vpm.encoder.layers.{n}.self_attn.k_proj.bias" for n in layers)
    return HalfRange(tuple(divided), keys, TIED)
