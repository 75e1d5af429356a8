"""Scales of an 8-bit key/value cache, one per channel of every head, computed without data.

Keys with a norm per head: the normed vector has length √head_dim, so no channel exceeds √head_dim
times its gain. Values, and keys without that norm: a channel is a row of the projection times an
input of unit mean square, so its spread is the row's length; the scale covers `_SPREADS` spreads
and the bias, and larger values are clipped. The rotary embedding mixes each channel of a key with
one other, so both get the larger scale. Scales measured on texts are finer.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np

from export.checkpoint.source import TensorReader
from export.graphs.graph import Parameter
from export.models.config import DecoderConfig
from mobile_runtime.bundle import cache_scale_name

STEPS = 127  # integers on either side of zero
_SPREADS = 12.0
Kind = Literal["key", "value"]


def cache_scales(config: DecoderConfig, layer: int, kind: Kind) -> Parameter:
    """Scales of the keys or the values of a layer, (kv_heads · head_dim,) float32."""
    name = f"llm.model.layers.{layer}"
    if kind == "key" and config.qk_norm:
        tensor = f"{name}.self_attn.k_norm.weight"
        load = partial(_normed_scales, name=tensor, heads=config.num_kv_heads)
    else:
        tensor = f"{name}.self_attn.{kind[0]}_proj.weight"
        load = partial(_projected_scales, layer=name, kind=kind, config=config)
    shape = (config.num_kv_heads * config.head_dim,)
    return Parameter(cache_scale_name(layer, kind), shape, load, tensor)


def _normed_scales(source: TensorReader, name: str, heads: int) -> np.ndarray:
    gains = np.abs(source.read(name).astype(np.float32))
    pairs = _rotated(gains)
    return _positive(np.tile(pairs * np.float32(len(gains) ** 0.5 / STEPS), heads))


def _projected_scales(
    source: TensorReader, layer: str, kind: Kind, config: DecoderConfig
) -> np.ndarray:
    projection = f"{layer}.self_attn.{kind[0]}_proj"
    gains = source.read(f"{layer}.input_layernorm.weight").astype(np.float32)
    weight = source.read(f"{projection}.weight").astype(np.float32)
    scales = np.linalg.norm(weight * gains, axis=1) * np.float32(_SPREADS / STEPS)
    if config.qkv_bias:
        scales += np.abs(source.read(f"{projection}.bias").astype(np.float32)) / np.float32(STEPS)
    if kind == "key":
        scales = _rotated(scales.reshape(-1, config.head_dim)).reshape(-1)
    return _positive(scales)


def _rotated(bounds: np.ndarray) -> np.ndarray:
    """The larger bound of the two channels (…, head_dim) that the rotary embedding mixes."""
    return np.asarray(np.maximum(bounds, np.roll(bounds, bounds.shape[-1] // 2, axis=-1)))


def _positive(scales: np.ndarray) -> np.ndarray:
    """Replace the scale 0 of a channel that is always zero, for which any scale is right."""
    return np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
