"""A tiny MiniCPM-V 4.5 with seeded random weights, written as a checkpoint folder.

Every part is there; the answers mean nothing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from export.releases import find_release, parse_config
from mobile_runtime.chat.tokenizer_file import WORD_PATTERN

_SEED = 0
_CONFIG: dict[str, Any] = {
    "model_type": "minicpmv",
    "version": 4.5,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "drop_vision_last_layer": False,
    "query_num": 64,
    "patch_size": 14,
    "vision_config": {
        "model_type": "siglip",
        "hidden_size": 128,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 256,
        "image_size": 980,
        "patch_size": 14,
    },
}


def write_random_checkpoint(folder: Path, **changes: Any) -> None:
    """Write config.json, weights and a byte-level tokenizer to `folder` (made if absent).

    `changes` replace values of the configuration; None removes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    release = find_release({**_CONFIG, **changes})
    tokenizer = _byte_tokenizer(release.chat.special_tokens.values())
    config = {
        **_CONFIG,
        "vocab_size": tokenizer.get_vocab_size(),
        "eos_token_id": tokenizer.token_to_id(release.chat.special_tokens["message_end"]),
        **changes,
    }
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(token_id): {"content": token.content, "special": token.special, "normalized": False}
        for token_id, token in tokenizer.get_added_tokens_decoder().items()
    }
    template = release.chat.default_template
    settings = {"chat_template": template, "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    shapes = release.tensor_shapes(parse_config(config))
    tensors = {name: _random_tensor(name, shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")


def _byte_tokenizer(special: Iterable[str]) -> Tokenizer:
    """One token a byte, then the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: n for n, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    split = pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in special]
    )
    return tokenizer


def _random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Depends on the name alone; norms near one, biases small, matrices scaled by their width."""
    rng = np.random.default_rng([_SEED, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("bias"):
        values *= 0.05
    elif len(shape) == 1:
        values = 1 + 0.1 * values
    else:
        values /= np.sqrt(np.prod(shape[1:]))
    return values.astype(ml_dtypes.bfloat16)
