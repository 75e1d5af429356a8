"""Arrays that the host maps into memory: token embeddings, vision positions, folded queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.checkpoint.source import TensorSource
from export.graphs.graph import Parameter
from export.graphs.parameters import POSITION_EMBEDDING, key_query, stored
from export.models.config import ModelConfig
from export.quant.affine import quantize_affine
from export.quant.quantize import quantize, to_float
from export.quant.recipe import QuantSpec
from export.quant.recipes import EMBED_TOKENS
from mobile_runtime.bundle import EmbeddingTable, TensorFile

_EMBEDDING_BLOCK = 8192  # rows quantized at a time: a vocabulary is too large to widen at once
_EMBEDDING, _SCALES = "embed_tokens.bin", "embed_tokens_scales.bin"
_POSITIONS, _KEY_QUERY = "position_embeddings.bin", "resampler_key_query.bin"


@dataclass(frozen=True)
class Tables:
    """Where the tables lie and what they are."""

    embed_tokens: EmbeddingTable
    position_embeddings: TensorFile
    key_query: TensorFile


def describe_tables(model: ModelConfig, spec: QuantSpec | None) -> Tables:
    """The files that `write_tables` writes; `spec` says how the embeddings are stored."""
    rows, columns = model.decoder.vocab_size, model.decoder.hidden_size
    scales = None if spec is None else TensorFile(_SCALES, (rows,), "float16")
    dtype = "float16" if spec is None else "int8"
    positions, queries = _positions(model), key_query(model)
    return Tables(
        EmbeddingTable(TensorFile(_EMBEDDING, (rows, columns), dtype), scales),
        TensorFile(_POSITIONS, positions.shape, "float16"),
        TensorFile(_KEY_QUERY, queries.shape, "float16"),
    )


def write_tables(
    model: ModelConfig,
    spec: QuantSpec | None,
    source: TensorSource,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    """Write the files; `advance` counts the embeddings."""
    _write_embedding(model, spec, source, folder, advance)
    _write_table(_positions(model), source, folder / _POSITIONS)
    _write_table(key_query(model), source, folder / _KEY_QUERY)


def _positions(model: ModelConfig) -> Parameter:
    vision = model.vision
    return stored(POSITION_EMBEDDING, vision.position_buckets**2, vision.hidden_size)


def _write_embedding(
    model: ModelConfig,
    spec: QuantSpec | None,
    source: TensorSource,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    scales = []
    with (folder / _EMBEDDING).open("wb") as file:
        for begin in range(0, model.decoder.vocab_size, _EMBEDDING_BLOCK):
            block = source.read_rows(EMBED_TOKENS, begin, begin + _EMBEDDING_BLOCK)
            if spec is not None:
                weight = quantize_affine(block, bits=8, name=EMBED_TOKENS)
                file.write(weight.q.tobytes())
                scales.append(weight.scale.reshape(-1))
            else:
                file.write(to_float(block, EMBED_TOKENS, len(block), np.float16).values.tobytes())
            advance(block.size)
    if spec is not None:
        (folder / _SCALES).write_bytes(np.concatenate(scales).tobytes())


def _write_table(parameter: Parameter, source: TensorSource, path: Path) -> None:
    """A float16 matrix that the host computes with."""
    values = quantize(parameter, source, None).dequantize().astype(np.float16)
    path.write_bytes(values.tobytes())
