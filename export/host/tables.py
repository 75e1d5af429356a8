"""Arrays that the host maps into memory: token embeddings, vision positions, folded queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.checkpoint.source import TensorReader
from export.graphs.graph import Parameter
from export.graphs.parameters import key_query, row_block, stored
from export.graphs.weights import load_weight
from export.models.config import ModelConfig
from export.models.tensors import EMBED_TOKENS, POSITION_EMBEDDING
from export.quant.recipe import FLOAT16, QuantSpec
from export.quant.weights import DenseWeight, RowWeight
from mobile_runtime.bundle import EmbeddingTable, TensorFile

_EMBEDDING_BLOCK = 8192  # rows quantized at a time: a vocabulary is too large to widen at once
_EMBEDDING, _SCALES = "embed_tokens.bin", "embed_tokens_scales.bin"
_POSITIONS, _KEY_QUERY = "position_embeddings.bin", "resampler_key_query.bin"


@dataclass(frozen=True)
class Tables:
    """Files, shapes and types of the tables."""

    embed_tokens: EmbeddingTable
    position_embeddings: TensorFile
    key_query: TensorFile


def embedding_table(model: ModelConfig) -> Parameter:
    """The token embeddings."""
    rows, columns = model.decoder.vocab_size, model.decoder.hidden_size
    return row_block(EMBED_TOKENS, EMBED_TOKENS, 0, rows, columns)


def position_table(model: ModelConfig) -> Parameter:
    """The position embeddings of the vision tower, which are float16 whatever a recipe says."""
    vision = model.vision
    return stored(POSITION_EMBEDDING, vision.position_buckets**2, vision.hidden_size)


def describe_tables(model: ModelConfig, spec: QuantSpec) -> Tables:
    """The files that `write_tables` writes; `spec` says how the embeddings are stored."""
    rows, columns = model.decoder.vocab_size, model.decoder.hidden_size
    scaled = spec.form == "rows"
    scales = TensorFile(_SCALES, (rows,), "float16") if scaled else None
    dtype = "int8" if scaled else f"float{spec.bits}"
    positions, queries = position_table(model), key_query(model)
    return Tables(
        EmbeddingTable(TensorFile(_EMBEDDING, (rows, columns), dtype), scales),
        TensorFile(_POSITIONS, positions.shape, "float16"),
        TensorFile(_KEY_QUERY, queries.shape, "float16"),
    )


def write_tables(
    model: ModelConfig,
    spec: QuantSpec,
    source: TensorReader,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    """Write the files; `advance` counts the embeddings."""
    _write_embedding(model, spec, source, folder, advance)
    _write_table(position_table(model), source, folder / _POSITIONS)
    _write_table(key_query(model), source, folder / _KEY_QUERY)


def _write_embedding(
    model: ModelConfig,
    spec: QuantSpec,
    source: TensorReader,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    """Write rows block by block: integers, with scales in a file of their own, or floats."""
    scales, (rows, columns) = [], embedding_table(model).shape
    with (folder / _EMBEDDING).open("wb") as file:
        for begin in range(0, rows, _EMBEDDING_BLOCK):
            end = min(begin + _EMBEDDING_BLOCK, rows)
            block = row_block(EMBED_TOKENS, EMBED_TOKENS, begin, end, columns)
            weight = load_weight(block, source, spec)
            if isinstance(weight, RowWeight):
                file.write(weight.q.tobytes())
                scales.append(weight.scale.reshape(-1))
            else:
                assert isinstance(weight, DenseWeight), f"no table of {spec}"
                file.write(weight.values.tobytes())
            advance(block.size)
    if scales:
        (folder / _SCALES).write_bytes(np.concatenate(scales).tobytes())


def _write_table(parameter: Parameter, source: TensorReader, path: Path) -> None:
    """Write a float16 matrix that the host computes with."""
    weight = load_weight(parameter, source, FLOAT16)
    assert isinstance(weight, DenseWeight)
    path.write_bytes(weight.values.tobytes())
