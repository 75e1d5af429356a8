"""Scales of an 8-bit key/value cache, one a channel of every head, known without any data.

Keys: after the norm of a head its values have the length √head_dim, so no channel exceeds
√head_dim times its gain, and the rotation joins it with one other channel. Values: a channel is a
row of the projection times an input of unit mean square, so its spread is the row's length; what
lies beyond `_SPREADS` spreads is clipped. Scales measured on texts are finer.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from export.checkpoint.source import TensorSource
from export.graphs.graph import Parameter
from export.models.config import DecoderConfig

_STEPS = 127
_SPREADS = 12.0


def key_scales(config: DecoderConfig, layer: int) -> Parameter:
    """(kv_heads · head_dim,) for the keys of a layer."""
    name = f"llm.model.layers.{layer}.self_attn"
    load = partial(_key_scales, name=f"{name}.k_norm.weight", heads=config.num_kv_heads)
    shape = (config.num_kv_heads * config.head_dim,)
    return Parameter(f"{name}.key_scale", shape, load, f"{name}.k_norm.weight")


def value_scales(config: DecoderConfig, layer: int) -> Parameter:
    """(kv_heads · head_dim,) for the values of a layer."""
    name = f"llm.model.layers.{layer}"
    load, tensor = partial(_value_scales, layer=name), f"{name}.self_attn.v_proj.weight"
    shape = (config.num_kv_heads * config.head_dim,)
    return Parameter(f"{name}.self_attn.value_scale", shape, load, tensor)


def _key_scales(source: TensorSource, name: str, heads: int) -> np.ndarray:
    gains = np.abs(source.read(name).astype(np.float32))
    pairs = np.maximum(gains, np.roll(gains, len(gains) // 2))
    return _positive(np.tile(pairs * np.float32(len(gains) ** 0.5 / _STEPS), heads))


def _value_scales(source: TensorSource, layer: str) -> np.ndarray:
    gains = source.read(f"{layer}.input_layernorm.weight").astype(np.float32)
    weight = source.read(f"{layer}.self_attn.v_proj.weight").astype(np.float32)
    return _positive(np.linalg.norm(weight * gains, axis=1) * np.float32(_SPREADS / _STEPS))


def _positive(scales: np.ndarray) -> np.ndarray:
    """A channel that is always zero takes any scale."""
    return np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
