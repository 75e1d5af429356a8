"""The sizes of a model that a bundle's manifest tells its reader."""

from __future__ import annotations

from export.models.config import ModelConfig
from mobile_runtime.bundle import Architecture


def architecture(model: ModelConfig) -> Architecture:
    """What the manifest says of `model`."""
    decoder = model.decoder
    return Architecture(
        hidden_size=decoder.hidden_size,
        num_layers=decoder.num_layers,
        num_attention_heads=decoder.num_heads,
        num_key_value_heads=decoder.num_kv_heads,
        head_dim=decoder.head_dim,
        rope_theta=decoder.rope_theta,
        vocab_size=decoder.vocab_size,
        vision_hidden_size=model.vision.hidden_size,
        resampler_heads=model.resampler_heads,
        num_queries=model.num_queries,
    )
