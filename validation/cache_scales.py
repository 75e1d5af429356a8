"""Scales of an ONNX bundle's 8-bit key/value cache, measured on texts and pictures.

The full-precision graph runs the chats; each channel's scale fits the largest magnitude found
there, times a margin. The scales in the bundle's graph change, and in the manifest its checksum and
the record of its recipe.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.backends.onnx.scales import read_cache_scales, write_cache_scales
from export.backends.onnx.text import TEXT_MODEL
from export.graphs.cache_scales import STEPS
from mobile_runtime.bundle import (
    FileEntry,
    Manifest,
    cache_scale_name,
    file_sha256,
    read_manifest,
    write_manifest,
)
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.files import replace_folder, scratch_folder
from mobile_runtime.model.onnx import OnnxDecoder
from mobile_runtime.session import ChatOptions, Session
from validation.chats import NamedChat

MARGIN = 1.1  # values of other texts may be a little larger


def store_measured_scales(
    bundle: Path, chats: Sequence[NamedChat], new_tokens: int
) -> dict[str, Any]:
    """Measure on `chats`, each continued greedily, and store the scales in the bundle; return what
    its manifest records of them. Raises `InputError` if the cache is not int8."""
    manifest = read_manifest(bundle)
    (graph,) = manifest.graphs_of("decoder")
    path = bundle / graph.path
    if manifest.decoding.kv_cache != "int8":
        raise InputError(
            f"{bundle} has a key/value cache of {manifest.decoding.kv_cache}, which needs no "
            "scales; give a bundle that was exported with --kv-cache int8."
        )
    before = read_cache_scales(path)
    largest, positions = _measure(bundle, chats, new_tokens)
    scales = {
        name: np.where(found > 0, found * MARGIN / STEPS, before[name])
        for name, found in largest.items()
    }
    ratio = np.median([np.median(scales[name] / before[name]) for name in scales])
    record = {
        "chats": [chat.name for chat in chats],
        "positions": positions,
        "margin": MARGIN,
        "median_ratio_to_data_free": float(ratio),
    }
    _store(bundle.resolve(), manifest, scales, record)
    return record


def _measure(
    bundle: Path, chats: Sequence[NamedChat], new_tokens: int
) -> tuple[dict[str, np.ndarray], int]:
    """Return the largest magnitude of each channel by name of its scale, and the number of
    positions."""
    session = Session.load(bundle, EngineOptions(precision="fp32"))
    decoder = session.model.decoder
    assert isinstance(decoder, OnnxDecoder)
    largest: dict[str, np.ndarray] = {}
    total = 0
    for named in chats:
        chat = named.chat
        options = ChatOptions(prompt=chat.options, max_slice_nums=chat.max_slice_nums)
        prompt = session.prepare(chat.messages, options, chat.folder)
        session.reset()
        logits, length = session.prefill(prompt), len(prompt.keys)
        room = session.manifest.decoding.context_length - length
        for _ in range(min(new_tokens, room)):
            logits, length = session.decode(int(logits.argmax())), length + 1
        for name, values in decoder.cache(length).items():
            found = np.abs(values).max(axis=(0, 2)).reshape(-1)
            largest[name] = np.maximum(found, largest.get(name, found))
        total += length
    return {_scale_name(name): values for name, values in largest.items()}, total


def _scale_name(cache: str) -> str:
    """past_key_values.3.key -> llm.model.layers.3.self_attn.key_scale"""
    _, layer, kind = cache.split(".")
    return cache_scale_name(int(layer), kind)


def _store(
    bundle: Path, manifest: Manifest, scales: Mapping[str, np.ndarray], record: dict[str, Any]
) -> None:
    """Replace graphs and manifest together: a bundle with only some of them new does not open."""
    (graph,) = manifest.graphs_of("decoder")
    changed = [name for name in (graph.path, TEXT_MODEL) if (bundle / name).is_file()]
    with scratch_folder(bundle) as new:
        shutil.copytree(bundle, new, copy_function=_link, symlinks=True, dirs_exist_ok=True)
        for name in changed:
            write_cache_scales(new / name, scales)
        files = tuple(_entry(new, f.path) if f.path in changed else f for f in manifest.files)
        recipe = {**manifest.recipe, "kv_cache_calibration": record}
        write_manifest(new, replace(manifest, files=files, recipe=recipe))
        replace_folder(new, bundle)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has none
        shutil.copyfile(source, target)


def _entry(bundle: Path, name: str) -> FileEntry:
    return FileEntry(name, (bundle / name).stat().st_size, file_sha256(bundle / name))
