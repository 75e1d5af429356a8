"""A Qwen3 of 0.5 billion random weights, in two layouts with the same decoder: the published one of
MiniCPM-V 4.5 with vision parts as small as they may be, and Hugging Face's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.published import CONFIG, PREPROCESSOR
from benchmarks.shards import Shapes, safetensors_header, tensor_bytes, write_shard
from benchmarks.vocabulary import build_tokenizer
from export.models.tensors import tensor_shapes
from export.releases import DEFAULT_RELEASE, parse_config
from export.releases.release import RELEASE_NAME

WEIGHTS = "model.safetensors"
_TEXT = "llm."
_RELEASE = replace(DEFAULT_RELEASE.facts, name="qwen3-random", license="none: random weights")
# Hidden size, depth and heads of Qwen3-0.6B; the vocabulary is cut, so that the decoder counts.
DECODER: Mapping[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 32768,
}
_VISION: Mapping[str, Any] = {
    **CONFIG["vision_config"],
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
_QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
_NOT_QWEN3 = (
    "vision_config slice_config slice_mode query_num image_size patch_size version "
    "batch_vision_input batch_3d_resampler drop_vision_last_layer"
).split()


def published_config(decoder: Mapping[str, Any] = DECODER) -> dict[str, Any]:
    """config.json in the published layout; ids of special tokens keep their distance to the end."""
    moved = decoder["vocab_size"] - CONFIG["vocab_size"]
    ids = {name: CONFIG[name] + moved for name in ("bos_token_id", "eos_token_id")}
    return {**CONFIG, **decoder, **ids, "vision_config": dict(_VISION)}


def qwen3_config(published: Mapping[str, Any]) -> dict[str, Any]:
    """The same decoder's config.json for Hugging Face."""
    kept = {name: value for name, value in published.items() if name not in _NOT_QWEN3}
    return {**kept, **_QWEN3}


def write_layouts(folder: Path, decoder: Mapping[str, Any] = DECODER) -> tuple[Path, Path]:
    """Write both checkpoints into `folder`; return their folders, ours first."""
    ours, theirs = folder / "published", folder / "qwen3"
    values = published_config(decoder)
    shapes = tensor_shapes(parse_config(values))
    for path, config in ((ours, values), (theirs, qwen3_config(values))):
        path.mkdir(parents=True)
        _write_json(path / "config.json", config)
        tokenizer = build_tokenizer(values["vocab_size"], values["bos_token_id"])
        tokenizer.save(str(path / "tokenizer.json"), pretty=False)
    _write_json(ours / "preprocessor_config.json", PREPROCESSOR)
    _write_json(ours / RELEASE_NAME, _RELEASE.as_json())
    _write_json(theirs / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    write_shard(ours / WEIGHTS, shapes, 2, lambda _: None)
    _copy_decoder(shapes, ours / WEIGHTS, theirs / WEIGHTS)
    return ours, theirs


def _copy_decoder(shapes: Shapes, source: Path, target: Path) -> None:
    """Copy the decoder's tensors. They are the first ones of the file, in an order that the shorter
    names have too: one run of bytes after another header."""
    names = sorted(name for name in shapes if name.startswith(_TEXT))
    assert names == sorted(shapes)[: len(names)]
    renamed = {name.removeprefix(_TEXT): shapes[name] for name in names}
    with source.open("rb") as given, target.open("wb") as written:
        written.write(safetensors_header(renamed))
        given.seek(len(safetensors_header(shapes)))
        left = sum(tensor_bytes(shape) for shape in renamed.values())
        while left:
            block = given.read(min(left, 1 << 24))
            written.write(block)
            left -= len(block)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
