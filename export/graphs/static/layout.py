"""The packages of static shapes, in the order in which they run, and the limits of their shapes.

The limits are those of the Neural Engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from export.config import ExportConfig
from export.graphs.bodies import Bodies
from export.graphs.graph import Section
from export.graphs.static.decoder import decoder_graph
from export.graphs.static.lm_head import MAX_DIMENSION, lm_head_graph, lm_head_slices
from export.graphs.static.resampler import resampler_graph
from export.graphs.static.vision_encoder import vision_encoder_graph
from export.models.config import ModelConfig
from mobile_runtime.bundle import Decoding, Preprocessing
from mobile_runtime.errors import InputError

# The Neural Engine accepts states, and is fast on last axes, whose sizes are multiples of this.
_ALIGNMENT = 32


def static_layout(
    bodies: Bodies, model: ModelConfig, preprocessing: Preprocessing, decoding: Decoding
) -> Sequence[Section]:
    """Vision tower, resampler, decoder and head, each of which may be cut into packages."""
    _check_views(model, preprocessing)
    length = preprocessing.max_patches
    return [
        Section(
            "vision_encoder",
            model.vision.num_layers,
            lambda blocks, name: vision_encoder_graph(bodies, model.vision, length, blocks, name),
        ),
        Section("resampler", 1, lambda _, name: resampler_graph(bodies, model, length, name)),
        Section(
            "decoder",
            model.decoder.num_layers,
            lambda blocks, name: decoder_graph(bodies, model.decoder, decoding, blocks, name),
        ),
        Section(
            "lm_head",
            lm_head_slices(model.decoder.vocab_size)[0],
            lambda blocks, name: lm_head_graph(bodies, model.decoder, blocks, name),
        ),
    ]


def _check_views(model: ModelConfig, preprocessing: Preprocessing) -> None:
    length = model.max_frames * preprocessing.max_patches
    if length > MAX_DIMENSION:
        raise InputError(
            f"scale_resolution {preprocessing.scale_resolution} makes views of up to "
            f"{preprocessing.max_patches} patches, {length} in a group of {model.max_frames} "
            f"frames; the Neural Engine takes {MAX_DIMENSION}: use a smaller scale_resolution."
        )


def static_decoding(config: ExportConfig, model: ModelConfig) -> Decoding:
    """Return the decoder's shapes. Raises `InputError` if target or model does not allow them."""
    context, prefill = config.context_length, config.prefill_length
    # With the cache as an input, the mask has one column per cached and per new position.
    columns = MAX_DIMENSION - (prefill if config.kv_cache == "io" else 0)
    limit = min(columns, model.decoder.max_position_embeddings) // _ALIGNMENT * _ALIGNMENT
    if not (_ALIGNMENT <= context <= limit and context % _ALIGNMENT == 0):
        raise InputError(
            f"--context-length {context} is not possible; "
            f"give a multiple of {_ALIGNMENT} from {_ALIGNMENT} to {limit}."
        )
    groups = model.decoder.num_heads // model.decoder.num_kv_heads
    if not 2 <= prefill <= min(context, MAX_DIMENSION // groups):
        raise InputError(
            f"--prefill-length {prefill} is not possible; "
            f"give 2 to {min(context, MAX_DIMENSION // groups)} (64 suits the Neural Engine)."
        )
    if config.kv_cache not in (None, "state", "io"):
        raise InputError(f"--kv-cache {config.kv_cache} is not possible; give state or io.")
    return Decoding(context, prefill, "io" if config.kv_cache == "io" else "state")
