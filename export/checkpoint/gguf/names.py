"""llama.cpp's names of tensors -> the published ones.

The language model is converted as Qwen3, whose queries and keys are not permuted. Of the vision
file, made by llama.cpp's converter for MiniCPM-V, `resampler.proj` is transposed, and queries, keys
and values of the resampler are apart. That converter calls the tower's first linear layer ffn_down;
others call it ffn_up: the one with more rows is the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from export.checkpoint.gguf.file import GgufTensor

LANGUAGE, VISION = "qwen3", "clip"  # general.architecture of the files
IGNORED = frozenset({"resampler.pos_embed_k", "resampler.pos_embed"})  # computed
_WHOLE = {
    "token_embd": "llm.model.embed_tokens",
    "output_norm": "llm.model.norm",
    "output": "llm.lm_head",
    "v.patch_embd": "vpm.embeddings.patch_embedding",
    "v.position_embd": "vpm.embeddings.position_embedding",
    "v.post_ln": "vpm.post_layernorm",
    "resampler.kv": "resampler.kv_proj",
    "resampler.attn.out": "resampler.attn.out_proj",
    **{name: name for name in ("resampler.ln_q", "resampler.ln_kv", "resampler.ln_post")},
}
_OF_BLOCK = {
    **{f"attn_{n}": f"self_attn.{n}_proj" for n in ("q", "k", "v")},
    **{f"attn_{n}_norm": f"self_attn.{n}_norm" for n in ("q", "k")},
    **{f"ffn_{n}": f"mlp.{n}_proj" for n in ("gate", "up", "down")},
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OF_VISION_BLOCK = {
    **{f"attn_{n}": f"self_attn.{n}_proj" for n in ("q", "k", "v", "out")},
    "ln1": "layer_norm1",
    "ln2": "layer_norm2",
}
_NAME = re.compile(r"((?P<vision>v\.)?blk\.(?P<layer>\d+)\.)?(?P<rest>.+)\.(?P<last>weight|bias)")
_THIRDS = ("q", "k", "v")


@dataclass(frozen=True)
class Pieces:
    """A published tensor: rows of the tensors called `names`, one after the other, or the one
    transposed."""

    names: tuple[str, ...]
    transposed: bool = False


def published(tensors: Mapping[str, GgufTensor]) -> Iterator[tuple[str, Pieces]]:
    """Published names of all tensors that have one, and what they are made of."""
    for last in ("weight", "bias"):
        thirds = tuple(f"resampler.attn.{third}.{last}" for third in _THIRDS)
        if all(name in tensors for name in thirds):
            yield f"resampler.attn.in_proj_{last}", Pieces(thirds)
    for name in tensors:
        if name == "resampler.query":
            yield name, Pieces((name,))
        elif name == "resampler.proj.weight":
            yield "resampler.proj", Pieces((name,), transposed=True)
        elif (found := _published(name, tensors)) is not None:
            yield found, Pieces((name,))


def _published(name: str, tensors: Mapping[str, GgufTensor]) -> str | None:
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    layer, rest, last = match["layer"], match["rest"], match["last"]
    if layer is None:
        return f"{_WHOLE[rest]}.{last}" if rest in _WHOLE else None
    if match["vision"] is None:
        inner = _OF_BLOCK.get(rest)
        return None if inner is None else f"llm.model.layers.{layer}.{inner}.{last}"
    inner = _OF_VISION_BLOCK.get(rest)
    if rest in ("ffn_up", "ffn_down"):
        rows = {n: _rows(tensors.get(f"v.blk.{layer}.{n}.weight")) for n in ("ffn_up", "ffn_down")}
        first = "ffn_up" if rows["ffn_up"] > rows["ffn_down"] else "ffn_down"
        inner = "mlp.fc1" if rest == first else "mlp.fc2"
    return None if inner is None else f"vpm.encoder.layers.{layer}.{inner}.{last}"


def _rows(tensor: GgufTensor | None) -> int:
    return 0 if tensor is None else tensor.shape[0]
