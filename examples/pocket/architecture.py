"""Sizes of the pocket model, in the published configuration keys, and its first weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from export.models.config import parse_config
from export.models.minicpmv import MiniCPMV
from export.models.release import Release
from export.models.resampler import Resampler
from mobile_runtime.bundle import Generation, SamplingDefaults

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
    "query_num": 16,
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
RELEASE = Release(
    name="minicpmv-pocket",
    license="Apache-2.0",
    generation=Generation(answer=_GREEDY, thinking=_GREEDY, max_new_tokens=128),
)
_POSITION_SCALE = 0.3
_VIEW_COLUMNS = 24.0  # columns of patches that the queries are spread over
_SLOWEST = 0.15  # radians a column: slower waves tell nothing about neighbours
_SHARPNESS = 3.0


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
    """Let each query and head look at a column of patches of its own, from left to right.

    The published positions hold the column as sines and cosines in their first half. Where these
    turn fast enough to tell columns apart, content is kept out of the keys at first.
    """
    queries, size = resampler.query.shape
    heads, half = resampler.num_heads, size // 2
    omega = 10000.0 ** -(torch.arange(half // 2) / (half // 2))
    fast = torch.cat([omega >= _SLOWEST, omega >= _SLOWEST])
    columns = torch.arange(queries * heads).view(queries, heads) * _VIEW_COLUMNS / (queries * heads)
    angles = columns[..., None] * omega
    waves = torch.cat([angles.sin(), angles.cos()], -1) * fast  # (queries, heads, half)
    eye = torch.eye(half, size).repeat(heads, 1)[: heads * half]
    resampler.query.mul_(0.1).add_(waves.reshape(queries, -1)[:, :size])
    resampler.attn.in_proj_weight[:size] = _SHARPNESS * torch.eye(size)
    resampler.attn.in_proj_weight[size : 2 * size] = eye[:size]
    resampler.kv_proj.weight[:half] *= torch.where(fast, 0.1, 1.0)[:, None]


def smooth_positions(buckets: int, table: Tensor) -> Tensor:
    """Waves over a picture's rows and columns, in the shape of `table`: neighbours are alike."""
    quarter = table.shape[1] // 4
    waves = 2 * math.pi * 2.0 ** torch.linspace(-1, math.log2(buckets / 2), quarter)
    angles = torch.arange(buckets)[:, None] / buckets * waves
    axis = torch.cat([angles.sin(), angles.cos()], 1)  # (buckets, hidden / 2)
    rows, columns = axis.repeat_interleave(buckets, 0), axis.repeat(buckets, 1)
    return torch.cat([rows, columns], 1)
