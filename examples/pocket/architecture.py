"""Sizes of the pocket model, in the published configuration keys, and its first weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from examples.pocket.example import QUERY_TIME
from export.releases import parse_config
from export.releases.release import ReleaseFacts
from mobile_runtime.bundle import Generation, SamplingDefaults
from validation.reference.minicpmv import MiniCPMV
from validation.reference.resampler import Resampler

VOCAB_SIZE = 448
CONFIG: dict[str, Any] = {
    "model_type": "minicpmv",
    "version": 4.5,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "intermediate_size": 768,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": None,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "drop_vision_last_layer": False,
    "query_num": 24,  # one per column of the widest view
    "patch_size": 14,
    "vocab_size": VOCAB_SIZE,
    "vision_config": {
        "model_type": "siglip",
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "intermediate_size": 512,
        "image_size": 448,
        "patch_size": 14,
    },
}
PREPROCESSOR: dict[str, Any] = {
    "scale_resolution": 168,
    "max_slice_nums": 4,
    "patch_size": 14,
    "image_feature_size": CONFIG["query_num"],
    "slice_mode": True,
    "use_image_id": True,
    "norm_mean": [0.5, 0.5, 0.5],
    "norm_std": [0.5, 0.5, 0.5],
}
# Reading is spelling: the best token always, and no penalty on a letter that comes twice.
_GREEDY = SamplingDefaults(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
RELEASE = ReleaseFacts(
    name="minicpmv-pocket",
    license="Apache-2.0",
    generation=Generation(answer=_GREEDY, thinking=_GREEDY, max_new_tokens=128),
)
_POSITION_SCALE = 0.3
_COLUMN_WAVES = (0.15, 1.0)  # radians per column: slower ones do not tell neighbours apart
_TIME_WAVES = (0.05, 0.4)  # radians per tenth of a second
_TIME_SHARE = 0.5  # of the columns' amplitude
_SHARPNESS = 4.0


def build_model(seed: int) -> MiniCPMV:
    """The model with fresh weights: matrices by fan-in, branch outputs smaller with depth."""
    model = MiniCPMV(parse_config(CONFIG))
    generator = torch.Generator().manual_seed(seed)
    depth = {"vpm": model.config.vision.num_layers, "llm": model.config.decoder.num_layers}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                nn.init.constant_(parameter, 1.0 if _is_gain(name) else 0.0)
                continue
            std = parameter[0].numel() ** -0.5
            if name.endswith(
                ("out_proj.weight", "o_proj.weight", "fc2.weight", "down_proj.weight")
            ):
                std /= math.sqrt(2 * depth.get(name.split(".")[0], 1))
            if "embed_tokens" in name or name == "resampler.query":
                std = 1.0
            parameter.normal_(0, std, generator=generator)
        table = model.vpm.embeddings.position_embedding.weight
        table.copy_(_POSITION_SCALE * smooth_positions(model.config.vision.position_buckets, table))
        spread_queries(model.resampler)
    return model


def _is_gain(name: str) -> bool:
    norms = ("norm", "ln_", "layer_norm", "layernorm")
    return name.endswith("weight") and any(norm in name for norm in norms)


def spread_queries(resampler: Resampler) -> None:
    """Let each query look at a column of patches and a time of its own.

    The published positions hold the column as sines and cosines in their first half, to which the
    time's sines are added; its cosines lie in the second half. Keys are made of the waves that
    turn fast enough to tell columns or times apart, and content is kept out of these at first.
    """
    queries, size = resampler.query.shape
    heads, half, quarter = resampler.num_heads, size // 2, size // 4
    column_waves, columns = _waves(quarter, _COLUMN_WAVES)
    time_waves, times = _waves(half, _TIME_WAVES)
    chosen = torch.cat([columns, quarter + columns, times, half + times])
    column = torch.arange(queries).view(queries, 1, 1).expand(-1, heads, -1)
    time = (torch.arange(queries) + 0.5).view(queries, 1, 1).expand(-1, heads, -1) * QUERY_TIME
    waves = [_on_circle(column * column_waves)]
    waves.append(_TIME_SHARE * _on_circle(time * time_waves))
    span = size // heads
    resampler.query.mul_(0.1)
    resampler.query.view(queries, heads, span)[..., : len(chosen)] += torch.cat(waves, -1)
    resampler.attn.in_proj_weight[:size] = _SHARPNESS * torch.eye(size)
    for head in range(heads):
        begin = size + head * span
        resampler.attn.in_proj_weight[begin : begin + len(chosen)] = torch.eye(size)[chosen]
    resampler.kv_proj.weight[chosen] *= 0.1


def _waves(count: int, bounds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Frequencies of `count` published waves that lie within `bounds`, and their numbers."""
    omega = 10000.0 ** -(torch.arange(count) / count)
    numbers = torch.nonzero((omega >= bounds[0]) & (omega <= bounds[1]))[:, 0]
    return omega[numbers], numbers


def _on_circle(angles: Tensor) -> Tensor:
    return torch.cat([angles.sin(), angles.cos()], -1)


def smooth_positions(buckets: int, table: Tensor) -> Tensor:
    """Waves over a picture's rows and columns, in the shape of `table`: neighbours are alike."""
    quarter = table.shape[1] // 4
    waves = 2 * math.pi * 2.0 ** torch.linspace(-1, math.log2(buckets / 2), quarter)
    angles = torch.arange(buckets)[:, None] / buckets * waves
    axis = torch.cat([angles.sin(), angles.cos()], 1)  # (buckets, hidden / 2)
    rows, columns = axis.repeat_interleave(buckets, 0), axis.repeat(buckets, 1)
    return torch.cat([rows, columns], 1)
