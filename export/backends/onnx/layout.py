"""The graphs of an ONNX bundle: their inputs and outputs, and the bodies around the shared blocks.

Names follow transformers.js and optimum where these have a convention. All lengths may vary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from onnx import TensorProto

from export.backends.onnx.cache import CONTEXT_AXIS, KINDS, open_cache
from export.backends.onnx.ops import OnnxOps, Tensor
from export.config import ExportConfig
from export.graphs.bodies import Bodies
from export.graphs.graph import Function, Graph, Parameter, Section
from export.graphs.parameters import key_query, row_block, stored
from export.models.config import DecoderConfig, ModelConfig, VisionConfig
from export.models.tensors import EMBED_TOKENS, FINAL_NORM, POSITION_EMBEDDING
from mobile_runtime.bundle import PAST, PRESENT, Decoding, TensorSpec, cache_name
from mobile_runtime.errors import InputError
from mobile_runtime.model.positions import WAVE_BASE

ANY = -1  # a length that varies, in the manifest
EMBED, DECODER = "embed_tokens", "decoder_model_merged"
_BLOCK_ROWS = 16_384
_EMBED_BLOCK = "llm.model.embed_tokens.{:02d}.weight"
# Names of the varying axes, by tensor and axis.
AXES: Mapping[str, Sequence[str]] = {
    "input_ids": ("batch_size", "sequence_length"),
    "inputs_embeds": ("batch_size", "sequence_length"),
    "attention_mask": ("batch_size", "total_sequence_length"),
    "logits": ("batch_size", "num_logits"),
    "pixel_values": ("batch_size", "num_patches"),
    "position_ids": ("batch_size", "num_patches"),
    "image_features": ("batch_size", "num_patches"),
    "row_ids": ("num_patches",),
    "column_ids": ("num_patches",),
    "temporal_ids": ("num_patches",),
}


def axis_names(spec: TensorSpec) -> list[str | int]:
    """The shape of an input or output, with names for the axes that vary."""
    cached = spec.name.startswith((PAST, PRESENT))
    names = ("batch_size", "", CONTEXT_AXIS) if cached else AXES.get(spec.name, ())
    return [names[n] if size == ANY else size for n, size in enumerate(spec.shape)]


def onnx_decoding(config: ExportConfig, model: ModelConfig, kv_caches: Sequence[str]) -> Decoding:
    """Return the decoder's lengths in tokens and the type of its cache.

    Prompts run in pieces of the prefill length; the cache holds the context length. Raises
    `InputError` if model or profile does not allow them.
    """
    limit = model.decoder.max_position_embeddings
    if not 1 <= config.context_length <= limit:
        raise InputError(
            f"--context-length {config.context_length} is not possible; give 1 to {limit}."
        )
    if not 1 <= config.prefill_length <= config.context_length:
        raise InputError(
            f"--prefill-length {config.prefill_length} is not possible; "
            f"give 1 to {config.context_length} (64 to 128 are fast)."
        )
    wanted = config.kv_cache or (kv_caches[0] if config.quant == "none" else kv_caches[-1])
    if wanted not in kv_caches:
        raise InputError(
            f"--kv-cache {wanted} is not possible in this profile; give {' or '.join(kv_caches)}."
        )
    kind: Literal["float32", "int8"] = "int8" if wanted == "int8" else "float32"
    return Decoding(config.context_length, config.prefill_length, kind)


def onnx_layout(bodies: Bodies, model: ModelConfig, decoding: Decoding) -> Sequence[Section]:
    """Vision tower, resampler, embeddings, decoder with its head."""
    return [
        Section("vision_encoder", 1, lambda _, name: _vision_encoder(bodies, model.vision, name)),
        Section("resampler", 1, lambda _, name: _resampler(bodies, model, name)),
        Section("embed_tokens", 1, lambda _, name: _embed_tokens(model.decoder, name)),
        Section("decoder", 1, lambda _, __: _decoder(bodies, model.decoder, decoding)),
    ]


def _vision_encoder(bodies: Bodies, config: VisionConfig, name: str) -> Graph:
    """Patches and their positions -> features; a batch holds views of one length."""
    buckets, size = config.position_buckets, config.hidden_size

    def body(ops: OnnxOps, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        table = stored(POSITION_EMBEDDING, buckets**2, size)
        given = {
            "patches": inputs["pixel_values"],
            "position_embeddings": ops.rows_of([table], inputs["position_ids"]),
            "attention_mask": None,
        }
        return bodies.encode_patches(ops, given, config, range(config.num_layers))

    values = TensorSpec("pixel_values", (ANY, ANY, 3 * config.patch_size**2), "float32")
    ids = TensorSpec("position_ids", (ANY, ANY), "int64")
    features = TensorSpec("image_features", (ANY, ANY, size), "float32")
    function = Function("main", (values, ids), (features,), body)
    return Graph(name, "vision_encoder", (function,), (), range(config.num_layers))


def _resampler(bodies: Bodies, model: ModelConfig, name: str) -> Graph:
    """Features, positions and times of all patches of a group of frames -> embeddings."""
    size = model.decoder.hidden_size

    def body(ops: OnnxOps, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        positions = patch_positions(ops, inputs, size)

        def scores(x: Tensor) -> Tensor:
            return ops.linear(ops.add(x, positions), key_query(model))

        return {"image_embeds": bodies.resample(ops, inputs["image_features"], scores, model)}

    features = TensorSpec("image_features", (1, ANY, model.vision.hidden_size), "float32")
    ids = [TensorSpec(f"{kind}_ids", (ANY,), "int64") for kind in ("row", "column", "temporal")]
    embeds = TensorSpec("image_embeds", (1, model.num_queries, size), "float32")
    function = Function("main", (features, *ids), (embeds,), body)
    return Graph(name, "resampler", (function,), (), range(1))


def patch_positions(ops: OnnxOps, inputs: Mapping[str, Tensor], size: int) -> Tensor:
    """Return position embeddings, (patches, size), made of sines and cosines.

    Those of the column, then of the row, plus those of the time; a picture has time −1 and none.
    """
    column = _waves(ops, inputs["column_ids"], size // 2)
    row = _waves(ops, inputs["row_ids"], size // 2)
    place = ops.emit("Concat", column, row, axis=-1)
    time = _waves(ops, inputs["temporal_ids"], size)
    zero = ops.builder.constant(0, np.int64)
    last = ops.builder.constant([-1], np.int64)
    none = ops.emit("Unsqueeze", ops.emit("Less", inputs["temporal_ids"].name, zero), last)
    time = ops.emit("Where", none, ops.builder.constant(0, np.float32), time)
    return Tensor(ops.emit("Add", place, time), size)


def _waves(ops: OnnxOps, ids: Tensor, size: int) -> str:
    """Sines, then cosines of (n,) ids at size / 2 frequencies: (n, size)."""
    exponents = np.arange(size // 2, dtype=np.float32) / np.float32(size / 2)
    omega = np.float32(1) / np.float32(WAVE_BASE) ** exponents
    table = ops.builder.table(f"frequencies_{size}", omega)
    last = ops.builder.constant([-1], np.int64)
    places = ops.emit("Unsqueeze", ops.emit("Cast", ids.name, to=TensorProto.FLOAT), last)
    angles = ops.emit("Mul", places, table)
    return ops.emit("Concat", ops.emit("Sin", angles), ops.emit("Cos", angles), axis=-1)


def _embed_tokens(config: DecoderConfig, name: str) -> Graph:
    rows, size = config.vocab_size, config.hidden_size

    def body(ops: OnnxOps, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        blocks = [
            row_block(_EMBED_BLOCK.format(n), EMBED_TOKENS, begin, end, size)
            for n, (begin, end) in enumerate(_blocks(rows))
        ]
        return {"inputs_embeds": ops.rows_of(blocks, inputs["input_ids"])}

    ids = TensorSpec("input_ids", (ANY, ANY), "int64")
    embeds = TensorSpec("inputs_embeds", (ANY, ANY, size), "float32")
    return Graph(name, "embed_tokens", (Function("main", (ids,), (embeds,), body),), (), range(1))


def _decoder(bodies: Bodies, config: DecoderConfig, decoding: Decoding) -> Graph:
    """All layers and the head. `num_logits_to_keep` is the number of last positions whose logits
    are computed; 0 means all."""

    def body(ops: OnnxOps, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        cache = open_cache(ops, inputs, config, decoding)
        x = inputs["inputs_embeds"]
        for n in range(config.num_layers):
            x = bodies.decoder_layer(ops, x, config, n, cache.attend)
        last = ops.emit("Neg", inputs["num_logits_to_keep"].name)
        end = ops.builder.constant([np.iinfo(np.int64).max], np.int64)
        axis = ops.builder.constant([1], np.int64)
        x = Tensor(ops.emit("Slice", x.name, last, end, axis), config.hidden_size)
        norm = stored(FINAL_NORM, config.hidden_size)
        x = ops.rms_norm(x, norm, config.stream_eps)
        return {"logits": ops.stacked(x, _head(bodies, config))}  # the cache wrote its own outputs

    inputs = (
        TensorSpec("inputs_embeds", (ANY, ANY, config.hidden_size), "float32"),
        TensorSpec("attention_mask", (ANY, ANY), "int64"),
        TensorSpec("num_logits_to_keep", (1,), "int64"),
        *cache_specs(config, decoding, PAST),
    )
    logits = TensorSpec("logits", (ANY, ANY, config.vocab_size), "float32")
    outputs = (logits, *cache_specs(config, decoding, PRESENT))
    function = Function("main", inputs, outputs, body)
    return Graph(DECODER, "decoder", (function,), (), range(config.num_layers))


def _head(bodies: Bodies, config: DecoderConfig) -> list[Parameter]:
    """The head in blocks of rows."""
    blocks = enumerate(_blocks(config.vocab_size))
    return [bodies.head_rows(config, n, *block) for n, block in blocks]


def _blocks(rows: int) -> list[tuple[int, int]]:
    """Rows of a vocabulary in blocks: all are too many to quantize at once."""
    return [(n, min(n + _BLOCK_ROWS, rows)) for n in range(0, rows, _BLOCK_ROWS)]


def cache_specs(config: DecoderConfig, decoding: Decoding, prefix: str) -> list[TensorSpec]:
    """Keys and values of every layer."""
    shape = (ANY, config.num_kv_heads, ANY, config.head_dim)
    return [
        TensorSpec(cache_name(prefix, n, kind), shape, decoding.kv_cache)
        for n in range(config.num_layers)
        for kind in KINDS
    ]
