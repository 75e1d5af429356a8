"""The published MiniCPM-V 4.5 as data: what benchmarks of full size are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# config.json, without the keys that name the publisher's own code.
CONFIG: Mapping[str, Any] = {
    "architectures": ["MiniCPMV"],
    "model_type": "minicpmv",
    "version": 4.5,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "max_window_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "max_position_embeddings": 40960,
    "vocab_size": 151748,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "initializer_range": 0.02,
    "use_cache": True,
    "drop_vision_last_layer": False,
    "query_num": 64,
    "batch_vision_input": True,
    "batch_3d_resampler": True,
    "image_size": 448,
    "patch_size": 14,
    "slice_mode": True,
    "slice_config": {"model_type": "minicpmv", "max_slice_nums": 9, "patch_size": 14},
    "vision_config": {
        "model_type": "siglip",
        "hidden_size": 1152,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "intermediate_size": 4304,
        "image_size": 980,
        "patch_size": 14,
    },
}

# preprocessor_config.json, likewise.
PREPROCESSOR: Mapping[str, Any] = {
    "image_processor_type": "MiniCPMVImageProcessor",
    "processor_class": "MiniCPMVProcessor",
    "version": 2.6,
    "max_slice_nums": 9,
    "scale_resolution": 448,
    "patch_size": 14,
    "use_image_id": True,
    "image_feature_size": 64,
    "slice_mode": True,
    "norm_mean": [0.5, 0.5, 0.5],
    "norm_std": [0.5, 0.5, 0.5],
    "im_start": "<image>",
    "im_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "im_id_start": "<image_id>",
    "im_id_end": "</image_id>",
    "unk": "<unk>",
}


def config_values(layers: int) -> dict[str, Any]:
    """config.json of the model cut to its first `layers` decoder layers."""
    return {**CONFIG, "num_hidden_layers": layers}
