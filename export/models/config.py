"""config.json of a MiniCPM-V checkpoint -> ModelConfig, refusing by name what it does not support.

Keys and defaults are the published ones (several defaults differ from the class defaults of the
published code: only what stands in the file counts).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json

# Constants of the 3D resampler that no configuration file holds.
LAYER_NORM_EPS = 1e-6
MAX_FRAMES = 6  # video frames packed into one group
# Attention heads of the resampler are always this wide (spec: heads = hidden size // 128).
RESAMPLER_HEAD_DIM = 128

_NO_EFFECT = frozenset(
    "_name_or_path _attn_implementation architectures auto_map attention_dropout "
    "batch_3d_resampler batch_vision_input dtype eos_token_id bos_token_id pad_token_id "
    "image_size initializer_range max_window_layers slice_config slice_mode torch_dtype "
    "transformers_version use_cache use_image_id vision_batch_size".split()
)
_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("minicpmv",),
    "version": (4.5, "4.5"),
    "hidden_act": ("silu",),
    "rope_scaling": (None,),
    "attention_bias": (False,),
    "sliding_window": (None,),
    "use_sliding_window": (False,),
    "drop_vision_last_layer": (False, True),
    "tie_word_embeddings": (False, True),
    "quantization_config": (None,),
}
_VISION_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("siglip", "siglip_vision_model"),
    "hidden_act": ("gelu_pytorch_tanh",),
    "num_channels": (3,),
}
_VISION_NO_EFFECT = frozenset("attention_dropout dtype torch_dtype transformers_version".split())


@dataclass(frozen=True)
class VisionConfig:
    """SigLIP tower; `num_layers` counts the layers that run."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    image_size: int
    patch_size: int
    layer_norm_eps: float

    @property
    def position_buckets(self) -> int:
        """Rows and columns of the position table."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class DecoderConfig:
    """Qwen3 language model."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float
    vocab_size: int
    tie_word_embeddings: bool
    max_position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    """MiniCPM-V 4.5: vision tower, 3D resampler, decoder."""

    vision: VisionConfig
    decoder: DecoderConfig
    num_queries: int

    @property
    def resampler_heads(self) -> int:
        """Attention heads of the resampler."""
        return self.decoder.hidden_size // RESAMPLER_HEAD_DIM


def load_config(checkpoint: Path) -> ModelConfig:
    """Read `checkpoint`/config.json."""
    return parse_config(read_json(checkpoint / "config.json"))


def parse_config(values: Mapping[str, Any]) -> ModelConfig:
    """Turn the published keys into a ModelConfig; refuse unsupported values and unknown keys."""
    vision_values = values.get("vision_config")
    if not isinstance(vision_values, dict):
        raise InputError("config.json needs an object 'vision_config'; is this a MiniCPM-V 4.5?")
    top = _Reader(values, "config.json", _SUPPORTED, _NO_EFFECT | {"vision_config"})
    vision = _Reader(vision_values, "vision_config", _VISION_SUPPORTED, _VISION_NO_EFFECT)
    config = ModelConfig(
        vision=_vision(vision, drop_last=bool(values.get("drop_vision_last_layer", True))),
        decoder=_decoder(top),
        num_queries=top.integer("query_num"),
    )
    _check_patch_size(top, config)
    top.refuse_unknown()
    vision.refuse_unknown()
    _check_shapes(config)
    return config


def _vision(reader: _Reader, drop_last: bool) -> VisionConfig:
    return VisionConfig(
        hidden_size=reader.integer("hidden_size"),
        num_layers=reader.integer("num_hidden_layers") - int(drop_last),
        num_heads=reader.integer("num_attention_heads"),
        intermediate_size=reader.integer("intermediate_size"),
        image_size=reader.integer("image_size"),
        patch_size=reader.integer("patch_size"),
        layer_norm_eps=reader.number("layer_norm_eps", 1e-6),
    )


def _decoder(reader: _Reader) -> DecoderConfig:
    return DecoderConfig(
        hidden_size=reader.integer("hidden_size"),
        num_layers=reader.integer("num_hidden_layers"),
        num_heads=reader.integer("num_attention_heads"),
        num_kv_heads=reader.integer("num_key_value_heads"),
        head_dim=reader.integer("head_dim"),
        intermediate_size=reader.integer("intermediate_size"),
        rms_norm_eps=reader.number("rms_norm_eps"),
        rope_theta=reader.number("rope_theta"),
        vocab_size=reader.integer("vocab_size"),
        tie_word_embeddings=bool(reader.values.get("tie_word_embeddings", False)),
        max_position_embeddings=reader.integer("max_position_embeddings"),
    )


class _Reader:
    """Typed access to one JSON object that remembers which keys were understood."""

    def __init__(
        self,
        values: Mapping[str, Any],
        where: str,
        supported: Mapping[str, tuple[Any, ...]],
        no_effect: frozenset[str],
    ) -> None:
        self.values, self.where = values, where
        self._known = set(supported) | no_effect
        for key, allowed in supported.items():
            if key in values and values[key] not in allowed:
                raise InputError(
                    f"{where} has {key} = {values[key]!r}, which is not supported; "
                    f"supported: {', '.join(map(repr, allowed))}."
                )

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        self._known.add(key)
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise InputError(
                f"{self.where} needs a positive number {key!r}, but has {value!r}; "
                "is this a MiniCPM-V 4.5 checkpoint?"
            )
        return float(value)

    def integer(self, key: str) -> int:
        """A positive whole number."""
        value = self.number(key)
        if not value.is_integer():
            raise InputError(f"{self.where} needs a whole number {key!r}, but has {value!r}.")
        return int(value)

    def refuse_unknown(self) -> None:
        """A key that nobody read may change the model: refuse it, unless it switches nothing on."""
        unknown = sorted(
            key
            for key, value in self.values.items()
            if key not in self._known and value not in (None, False)
        )
        if unknown:
            raise InputError(
                f"{self.where} has keys that this program does not know: {', '.join(unknown)}; "
                "remove them if they do not change the model."
            )


def _check_patch_size(reader: _Reader, config: ModelConfig) -> None:
    if "patch_size" in reader.values and reader.integer("patch_size") != config.vision.patch_size:
        raise InputError("config.json and vision_config disagree on patch_size; make them equal.")


def _check_shapes(config: ModelConfig) -> None:
    vision, decoder = config.vision, config.decoder
    rules = {
        "num_attention_heads must be a multiple of num_key_value_heads": decoder.num_heads
        % decoder.num_kv_heads,
        "head_dim must be even": decoder.head_dim % 2,
        f"hidden_size must be a multiple of {RESAMPLER_HEAD_DIM}": decoder.hidden_size
        % RESAMPLER_HEAD_DIM,
        "vision hidden_size must be a multiple of its num_attention_heads": vision.hidden_size
        % vision.num_heads,
        "vision image_size must be a multiple of patch_size": vision.image_size % vision.patch_size,
    }
    if vision.num_layers < 1:
        raise InputError(
            "config.json is inconsistent: drop_vision_last_layer leaves the vision tower "
            "without a layer; it needs one to run."
        )
    for rule, remainder in rules.items():
        if remainder:
            raise InputError(f"config.json is inconsistent: {rule}.")
