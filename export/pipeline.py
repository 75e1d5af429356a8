"""Checkpoint -> bundle: the steps of one export, on one screen.

Everything is written to a temporary folder beside the result, which is renamed when complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from export.backends.base import Backend
from export.card import write_card
from export.checkpoint import Checkpoint, local_checkpoint, locate_checkpoint
from export.config import ExportConfig
from export.graphs.graph import Graph, Parameter
from export.graphs.parameters import POSITION_EMBEDDING, key_query, stored
from export.models.config import ModelConfig, load_config
from export.models.preprocessor import load_preprocessing
from export.models.release import PUBLISHED, Release, load_release
from export.models.tensors import tensor_shapes
from export.plan import Plan, build_plan
from export.progress import Progress
from export.quant.affine import quantize_affine
from export.quant.quantize import quantize, to_float16
from export.quant.recipes import EMBED_TOKENS
from export.tokenizer import build_tokenizer_files
from export.weights import Weight
from mobile_runtime.bundle import (
    SCHEMA_VERSION,
    Architecture,
    EmbeddingTable,
    GraphSpec,
    InputError,
    Manifest,
    Preprocessing,
    Prompt,
    Source,
    TensorFile,
    list_files,
    write_manifest,
)

_EMBEDDING_BLOCK = 8192  # rows quantized at a time
_SPARE_BYTES = 200_000_000  # programs, tokenizer, file system
_POCKET = (
    "No --checkpoint given: exporting the pocket model, which reads short texts, digits, shapes "
    "and small videos. For MiniCPM-V 4.5 give --checkpoint openbmb/MiniCPM-V-4_5 or a folder."
)


@dataclass(frozen=True)
class _Inputs:
    """What is known before anything is written."""

    checkpoint: Checkpoint
    model: ModelConfig
    preprocessing: Preprocessing
    plan: Plan
    name: str  # of the checkpoint, as the user gave it
    release: Release
    tools: Mapping[str, str]


@dataclass(frozen=True)
class _Tables:
    """The raw arrays that the host maps into memory."""

    embed_tokens: EmbeddingTable
    position_embeddings: TensorFile
    key_query: TensorFile


def export_bundle(config: ExportConfig, backend: Backend, progress: Progress) -> Path:
    """Run the export that `config` describes; return the bundle's folder."""
    local = local_checkpoint(config.checkpoint)
    release = PUBLISHED if local is None else load_release(local)
    target = config.output / f"{release.name}-{backend.name}-{config.quant}"
    _check_target(config, target)
    tools = backend.tools()
    if config.checkpoint is None:
        progress.note(_POCKET)
    folder = locate_checkpoint(config.checkpoint, weights=not config.plan)
    model = load_config(folder)
    preprocessing = load_preprocessing(folder, model)
    plan = build_plan(config, model, preprocessing, backend)
    progress.plan(plan)
    if config.plan:
        return target
    checkpoint = Checkpoint(folder)
    checkpoint.check(tensor_shapes(model))
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_disk(plan, model, target.parent)
    name = folder.resolve().name if local else Path(str(config.checkpoint)).name
    inputs = _Inputs(checkpoint, model, preprocessing, plan, name, release, tools)
    with _staging(target) as partial:
        _write_bundle(inputs, backend, partial, progress)
        _replace(partial, target)
    return target


def _check_target(config: ExportConfig, target: Path) -> None:
    if target.exists() and not (config.overwrite or config.plan):
        raise InputError(
            f"{target} exists already; remove it, give another --output, or add --overwrite."
        )


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A folder beside `target` that vanishes unless it is moved away."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, target: Path) -> None:
    """Put the finished folder in place; what was there before goes last."""
    old = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        partial.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_bundle(inputs: _Inputs, backend: Backend, folder: Path, progress: Progress) -> None:
    prompt = build_tokenizer_files(
        inputs.checkpoint.folder, folder / "tokenizer", inputs.model.decoder.vocab_size
    )
    tables = _write_tables(inputs, folder, progress)
    graphs = tuple(
        _write_graph(graph, inputs, backend, folder, progress) for graph in inputs.plan.graphs
    )
    manifest = _manifest(inputs, backend, prompt, graphs, tables)
    write_card(folder / "README.md", manifest)
    write_manifest(folder, replace(manifest, files=list_files(folder)))


def _check_disk(plan: Plan, model: ModelConfig, output: Path) -> None:
    table = model.decoder.vocab_size * model.decoder.hidden_size
    table *= 2 if plan.embed_tokens is None else 1
    needed = table + sum(plan.package_bytes(graph) for graph in plan.graphs) + _SPARE_BYTES
    free = shutil.disk_usage(output).free
    if needed > free:
        raise InputError(
            f"the bundle needs {needed:,} bytes, {output} has {free:,} free; make room or give "
            "another --output."
        )


def _write_graph(
    graph: Graph, inputs: _Inputs, backend: Backend, folder: Path, progress: Progress
) -> GraphSpec:
    path = f"{graph.name}{backend.suffix}"

    def weights() -> Iterator[tuple[Parameter, Weight]]:
        for parameter in graph.parameters:
            spec = inputs.plan.specs.get(parameter.name)
            yield parameter, quantize(parameter, inputs.checkpoint, spec)
            progress.advance(parameter.size)

    with progress.package(graph.name):
        size = backend.convert(graph, inputs.plan.specs, weights(), folder / path)
    return graph.spec(path, size)


def _write_embedding(inputs: _Inputs, folder: Path, progress: Progress) -> EmbeddingTable:
    """The raw table, row block by row block: a vocabulary is too large to widen at once."""
    decoder = inputs.model.decoder
    rows, columns = decoder.vocab_size, decoder.hidden_size
    quantized = inputs.plan.embed_tokens is not None
    scales = []
    with progress.package("embed_tokens"), (folder / "embed_tokens.bin").open("wb") as file:
        for begin in range(0, rows, _EMBEDDING_BLOCK):
            block = inputs.checkpoint.read_rows(EMBED_TOKENS, begin, begin + _EMBEDDING_BLOCK)
            if quantized:
                weight = quantize_affine(block, bits=8, name=EMBED_TOKENS)
                file.write(weight.q.tobytes())
                scales.append(weight.scale.reshape(-1))
            else:
                file.write(to_float16(block, EMBED_TOKENS, len(block)).values.tobytes())
            progress.advance(block.size)
    dtype = "int8" if quantized else "float16"
    table = TensorFile("embed_tokens.bin", (rows, columns), dtype)
    if not quantized:
        return EmbeddingTable(table, None)
    (folder / "embed_tokens_scales.bin").write_bytes(np.concatenate(scales).tobytes())
    return EmbeddingTable(table, TensorFile("embed_tokens_scales.bin", (rows,), "float16"))


def _write_table(parameter: Parameter, inputs: _Inputs, folder: Path, name: str) -> TensorFile:
    """A float16 matrix that the host computes with."""
    values = quantize(parameter, inputs.checkpoint, None).dequantize().astype(np.float16)
    (folder / name).write_bytes(values.tobytes())
    return TensorFile(name, parameter.shape, "float16")


def _write_tables(inputs: _Inputs, folder: Path, progress: Progress) -> _Tables:
    vision = inputs.model.vision
    positions = stored(POSITION_EMBEDDING, vision.position_buckets**2, vision.hidden_size)
    return _Tables(
        embed_tokens=_write_embedding(inputs, folder, progress),
        position_embeddings=_write_table(positions, inputs, folder, "position_embeddings.bin"),
        key_query=_write_table(key_query(inputs.model), inputs, folder, "resampler_key_query.bin"),
    )


def _manifest(
    inputs: _Inputs,
    backend: Backend,
    prompt: Prompt,
    graphs: tuple[GraphSpec, ...],
    tables: _Tables,
) -> Manifest:
    recipe: dict[str, Any] = inputs.plan.recipe.as_json()
    tools = {"minicpmv-mobile": version("minicpmv-mobile"), "numpy": np.__version__}
    source = Source(
        name=inputs.name, sha256=inputs.checkpoint.sha256(), license=inputs.release.license
    )
    return Manifest(
        schema_version=SCHEMA_VERSION,
        format=backend.name,
        model=inputs.release.name,
        architecture=_architecture(inputs.model),
        preprocessing=inputs.preprocessing,
        prompt=prompt,
        generation=inputs.release.generation,
        decoding=inputs.plan.decoding,
        graphs=graphs,
        embed_tokens=tables.embed_tokens,
        position_embeddings=tables.position_embeddings,
        resampler_key_query=tables.key_query,
        recipe=recipe,
        source=source,
        tools={**tools, **inputs.tools},
        files=(),
    )


def _architecture(model: ModelConfig) -> Architecture:
    decoder = model.decoder
    return Architecture(
        hidden_size=decoder.hidden_size,
        num_layers=decoder.num_layers,
        num_attention_heads=decoder.num_heads,
        num_key_value_heads=decoder.num_kv_heads,
        head_dim=decoder.head_dim,
        rope_theta=decoder.rope_theta,
        vocab_size=decoder.vocab_size,
        vision_hidden_size=model.vision.hidden_size,
        resampler_heads=model.resampler_heads,
        num_queries=model.num_queries,
    )
