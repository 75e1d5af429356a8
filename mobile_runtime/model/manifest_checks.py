"""Refuses numbers of a manifest that no model has, and tables of other sizes than the model's,
before anything is computed or allocated with them. `ManifestChecks.swift` does the same."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mobile_runtime.bundle import MANIFEST_NAME, Manifest, TensorFile
from mobile_runtime.errors import InputError

_LARGEST = 1 << 24
_AGAIN = "export the bundle again"


def check_numbers(manifest: Manifest) -> None:
    """Raises `InputError` for a size or a constant out of range."""
    for name, value in _sizes(manifest):
        if not 1 <= value <= _LARGEST:
            raise InputError(
                f"{name} in {MANIFEST_NAME} is {value}; it must be 1 to {_LARGEST}; {_AGAIN}."
            )
    theta = manifest.architecture.rope_theta
    if not 0 < theta < math.inf:
        raise InputError(f"rope_theta in {MANIFEST_NAME} must be a number above 0; {_AGAIN}.")
    preprocessing = manifest.preprocessing
    means, deviations = preprocessing.norm_mean, preprocessing.norm_std
    numbers = all(map(math.isfinite, (*means, *deviations)))
    if not numbers or len(means) != 3 or len(deviations) != 3 or min(deviations) <= 0:
        raise InputError(
            f"norm_mean and norm_std in {MANIFEST_NAME} must be three numbers each, the latter "
            f"above 0; {_AGAIN}."
        )


def check_tables(manifest: Manifest) -> None:
    """Raises `InputError` for a table whose shape contradicts the sizes of the model."""
    for file, shape in _tables(manifest):
        if file is not None and file.shape != shape:
            raise InputError(
                f"{file.path} has the shape {list(file.shape)}, its model needs {list(shape)}; "
                f"{_AGAIN}."
            )


def _tables(manifest: Manifest) -> Iterator[tuple[TensorFile | None, tuple[int, ...]]]:
    architecture, preprocessing = manifest.architecture, manifest.preprocessing
    hidden, rows = architecture.hidden_size, architecture.vocab_size
    if manifest.embed_tokens is not None:
        yield manifest.embed_tokens.table, (rows, hidden)
        yield manifest.embed_tokens.scales, (rows,)
    positions = preprocessing.position_buckets**2
    yield manifest.position_embeddings, (positions, architecture.vision_hidden_size)
    queries = architecture.resampler_heads * preprocessing.num_queries
    yield manifest.resampler_key_query, (queries, hidden)


def _sizes(manifest: Manifest) -> Iterator[tuple[str, int]]:
    architecture, preprocessing = manifest.architecture, manifest.preprocessing
    for name in (
        "hidden_size",
        "num_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "vision_hidden_size",
        "resampler_heads",
    ):
        yield name, getattr(architecture, name)
    for name in (
        "scale_resolution",
        "patch_size",
        "max_slice_nums",
        "num_queries",
        "position_buckets",
        "max_patches",
    ):
        yield name, getattr(preprocessing, name)
    yield "context_length", manifest.decoding.context_length
    yield "prefill_length", manifest.decoding.prefill_length
    yield "max_new_tokens", manifest.generation.max_new_tokens
