"""config.json of a checkpoint of the family -> ModelConfig; errors name what is not supported.

Keys are the published ones. Only the file counts: several defaults in the published code differ
from it. Differences between releases come from `ConfigRules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from export.models.known_keys import NO_EFFECT, UNCHANGED, with_published_keys
from mobile_runtime.errors import InputError

# Constants of the resampler that no configuration file holds.
LAYER_NORM_EPS = 1e-6
# Numbers beyond these are damage.
_LARGEST, _LARGEST_SIZE, _MOST_LAYERS = 1e12, 1 << 21, 1024

_OF_PICTURES = frozenset(  # how a picture is cut is read from preprocessor_config.json
    "batch_3d_resampler batch_vision_input image_size slice_config slice_mode use_image_id "
    "vision_batch_size".split()
)
_NAMES_RELEASE = frozenset(("model_type", "version"))  # read before the rules are known
_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "rope_scaling": (None,),
    "attention_bias": (False,),
    "sliding_window": (None,),
    "use_sliding_window": (False,),
    "drop_vision_last_layer": (False, True),
    "tie_word_embeddings": (False, True),
    "quantization_config": (None,),
    **UNCHANGED,
}
_VISION_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("siglip", "siglip_vision_model"),
    "hidden_act": ("gelu_pytorch_tanh",),
    "num_channels": (3,),
    **UNCHANGED,
}
# The published tower has no pooling head, whatever transformers' own configuration says of one.
_VISION_NO_EFFECT = NO_EFFECT | {"vision_use_head", "projection_dim"}


@dataclass(frozen=True)
class ConfigRules:
    """Properties of a release's model that its config.json does not state.

    `title` names the release in errors. `supported` adds keys, or replaces the values that they may
    have; keys in `no_effect` may have any value.
    """

    title: str
    qkv_bias: bool
    qk_norm: bool
    max_frames: int  # video frames that the resampler packs into one group
    supported: Mapping[str, tuple[Any, ...]]
    no_effect: frozenset[str] = frozenset()
    names_head_dim: bool = True  # else it is hidden_size / num_attention_heads
    # Width of the resampler's attention heads, which fill the hidden size.
    resampler_head_dim: int = 128

    def default_head_dim(self, hidden_size: int, num_heads: int) -> int | None:
        """The head_dim of a decoder whose config.json has none; None if it must have one."""
        return None if self.names_head_dim else hidden_size // num_heads


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
    """Language model of the Qwen family: Qwen2 has biases on queries, keys and values, Qwen3 norms
    on the heads of queries and keys."""

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
    qkv_bias: bool
    qk_norm: bool
    stream_divisor: int = 1  # see `export.checkpoint.half_range`

    @property
    def stream_eps(self) -> float:
        """eps of the norms that read the residual stream."""
        return self.rms_norm_eps / self.stream_divisor**2


@dataclass(frozen=True)
class ModelConfig:
    """Vision tower, resampler, decoder."""

    vision: VisionConfig
    decoder: DecoderConfig
    num_queries: int
    max_frames: int  # video frames that the resampler packs into one group
    resampler_heads: int


def parse_config(values: Mapping[str, Any], rules: ConfigRules) -> ModelConfig:
    """Turn the published keys into a ModelConfig.

    Raises `InputError` for unsupported values and for unknown keys.
    """
    vision_values = values.get("vision_config")
    if not isinstance(vision_values, dict):
        raise InputError(f"config.json needs an object 'vision_config'; is this a {rules.title}?")
    values = with_published_keys(values)
    known = NO_EFFECT | _OF_PICTURES | rules.no_effect | _NAMES_RELEASE | {"vision_config"}
    top = _Reader(values, "config.json", {**_SUPPORTED, **rules.supported}, known, rules.title)
    vision = _Reader(
        vision_values, "vision_config", _VISION_SUPPORTED, _VISION_NO_EFFECT, rules.title
    )
    decoder = _decoder(top, rules)
    config = ModelConfig(
        vision=_vision(vision, drop_last=bool(values.get("drop_vision_last_layer", True))),
        decoder=decoder,
        num_queries=top.integer("query_num"),
        max_frames=rules.max_frames,
        resampler_heads=decoder.hidden_size // rules.resampler_head_dim,
    )
    _check_patch_size(top, config)
    top.refuse_unknown()
    vision.refuse_unknown()
    _check_shapes(config, rules)
    return config


def _vision(reader: _Reader, drop_last: bool) -> VisionConfig:
    return VisionConfig(
        hidden_size=reader.integer("hidden_size"),
        num_layers=reader.integer("num_hidden_layers", most=_MOST_LAYERS) - int(drop_last),
        num_heads=reader.integer("num_attention_heads"),
        intermediate_size=reader.integer("intermediate_size"),
        image_size=reader.integer("image_size"),
        patch_size=reader.integer("patch_size"),
        layer_norm_eps=reader.number("layer_norm_eps", 1e-6),
    )


def _decoder(reader: _Reader, rules: ConfigRules) -> DecoderConfig:
    hidden_size, num_heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    return DecoderConfig(
        hidden_size=hidden_size,
        num_layers=reader.integer("num_hidden_layers", most=_MOST_LAYERS),
        num_heads=num_heads,
        num_kv_heads=reader.integer("num_key_value_heads"),
        head_dim=reader.integer("head_dim", rules.default_head_dim(hidden_size, num_heads)),
        intermediate_size=reader.integer("intermediate_size"),
        rms_norm_eps=reader.number("rms_norm_eps"),
        rope_theta=reader.number("rope_theta"),
        vocab_size=reader.integer("vocab_size"),
        tie_word_embeddings=bool(reader.values.get("tie_word_embeddings", False)),
        max_position_embeddings=reader.integer("max_position_embeddings"),
        qkv_bias=rules.qkv_bias,
        qk_norm=rules.qk_norm,
    )


class _Reader:
    """Typed access to one JSON object that remembers which keys were understood."""

    def __init__(
        self,
        values: Mapping[str, Any],
        where: str,
        supported: Mapping[str, tuple[Any, ...]],
        no_effect: frozenset[str],
        title: str,
    ) -> None:
        self.values, self.where, self._title = values, where, title
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
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or not 0 < value <= _LARGEST:  # neither is NaN
            raise InputError(
                f"{self.where} needs a positive number {key!r}, but has {str(value)[:40]}; "
                f"is this a {self._title} checkpoint?"
            )
        return float(value)

    def integer(self, key: str, default: int | None = None, *, most: int = _LARGEST_SIZE) -> int:
        """A positive whole number, at most `most`: a model is planned from it before its tensors
        are looked at."""
        value = self.number(key, default)
        if not value.is_integer():
            raise InputError(f"{self.where} needs a whole number {key!r}, but has {value!r}.")
        if value > most:
            raise InputError(f"{self.where} has {key} = {value:.0f}; at most {most} is supported.")
        return int(value)

    def refuse_unknown(self) -> None:
        """Refuse unknown keys, which may change the model; None and False are ignored."""
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


def _check_shapes(config: ModelConfig, rules: ConfigRules) -> None:
    vision, decoder = config.vision, config.decoder
    remainders = {
        "num_attention_heads must be a multiple of num_key_value_heads": decoder.num_heads
        % decoder.num_kv_heads,
        "head_dim must be even": decoder.head_dim % 2,
        f"hidden_size must be a multiple of {rules.resampler_head_dim}": decoder.hidden_size
        % rules.resampler_head_dim,
        "vision hidden_size must be a multiple of its num_attention_heads": vision.hidden_size
        % vision.num_heads,
        "vision image_size must be a multiple of patch_size": vision.image_size % vision.patch_size,
    }
    if vision.num_layers < 1:
        raise InputError(
            "config.json is inconsistent: drop_vision_last_layer leaves the vision tower "
            "without a layer; it needs one to run."
        )
    for rule, remainder in remainders.items():
        if remainder:
            raise InputError(f"config.json is inconsistent: {rule}.")
