"""Turns a checkpoint's tokenizer into the files of a bundle and the Prompt of its manifest.

A checkpoint folder goes in; tokenizer.json (copied, or built from vocab.json and merges.txt) and
the published files come out. It reads no weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from export.host.chat_format import ChatRules
from mobile_runtime.bundle import Prompt, SpecialToken
from mobile_runtime.chat.tokenizer_file import WORD_PATTERN, load_tokenizer
from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json

_REMEDY = "download the checkpoint's tokenizer files"
_DECLARED = "added_tokens_decoder"
_FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
_COPIED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def build_tokenizer_files(
    checkpoint_dir: Path, out_dir: Path, vocab_size: int, rules: ChatRules
) -> Prompt:
    """Write the tokenizer's files to `out_dir` (made if absent) and describe its special tokens.

    Every token id must be below `vocab_size`, the rows of the embedding table.
    """
    given = checkpoint_dir / "tokenizer.json"
    settings = checkpoint_dir / "tokenizer_config.json"
    # A complete tokenizer.json holds everything that the settings would.
    config = read_json(settings, _REMEDY) if settings.is_file() or not given.is_file() else {}
    template = _chat_template(checkpoint_dir, config, rules)
    tokenizer = (
        load_tokenizer(given, "give the published tokenizer.json")[0]
        if given.is_file()
        else _build(checkpoint_dir, config)
    )
    if _DECLARED in config:  # newer libraries declare them in tokenizer.json only
        _check_added_tokens(tokenizer, config)
    _check_vocab_size(tokenizer, vocab_size)
    special_tokens = _special_tokens(tokenizer, rules)
    out_dir.mkdir(parents=True, exist_ok=True)
    if given.is_file():
        shutil.copyfile(given, out_dir / given.name)
    else:
        tokenizer.save(str(out_dir / given.name), pretty=False)
    for name in _COPIED:
        if (checkpoint_dir / name).is_file():
            shutil.copyfile(checkpoint_dir / name, out_dir / name)
    (out_dir / "chat_template.jinja").write_text(template, encoding="utf-8")
    stop_token_ids = tuple(special_tokens[role].id for role in rules.stop_roles)
    return Prompt(special_tokens, stop_token_ids, template)


def _chat_template(checkpoint_dir: Path, config: Mapping[str, Any], rules: ChatRules) -> str:
    path = checkpoint_dir / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if template is None:
        return rules.default_template
    if not isinstance(template, str) or not rules.supports(template):
        raise InputError(
            f"The chat template in {checkpoint_dir} is not that of {rules.title}, the only one "
            "that the runtime supports; restore the published template."
        )
    return template


def _build(checkpoint_dir: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Qwen2's byte-level BPE with the checkpoint's added tokens."""
    vocab, merges = checkpoint_dir / "vocab.json", checkpoint_dir / "merges.txt"
    if missing := [path.name for path in (vocab, merges) if not path.is_file()]:
        raise InputError(
            f"{checkpoint_dir} has no tokenizer.json and no {' and no '.join(missing)} to build it "
            "from; download the checkpoint's tokenizer files."
        )
    try:
        model = models.BPE.from_file(str(vocab), str(merges))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(
            f"{vocab.name} and {merges.name} in {checkpoint_dir} do not fit together ({error}); "
            "download them again."
        ) from error
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    for _, entry in sorted(_declared_tokens(config).items()):
        added = {flag: entry[flag] for flag in _FLAGS if flag in entry}
        tokenizer.add_tokens([AddedToken(entry["content"], **added)])
    return tokenizer


def _declared_tokens(config: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    entries = config.get(_DECLARED)
    if not isinstance(entries, dict) or not entries:
        raise InputError(
            f"tokenizer_config.json has no {_DECLARED}; give the published file, or tokenizer.json."
        )
    for token_id, entry in entries.items():
        if not _is_declared(token_id, entry):
            raise InputError(
                f"tokenizer_config.json declares the token {token_id[:40]!r} without its content, "
                f"or with a flag that is none; {_REMEDY}."
            )
    return {int(token_id): entry for token_id, entry in entries.items()}


def _is_declared(token_id: str, entry: Any) -> bool:
    if not (token_id.isdecimal() and len(token_id) < 10 and isinstance(entry, dict)):
        return False
    flags = all(isinstance(entry.get(flag, False), bool) for flag in _FLAGS)
    return isinstance(entry.get("content"), str) and flags


def _check_added_tokens(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    """Each declared token must be an added token of the tokenizer, with the declared id."""
    added = tokenizer.get_added_tokens_decoder()
    for token_id, entry in _declared_tokens(config).items():
        if token_id not in added or added[token_id].content != entry["content"]:
            raise InputError(
                f"tokenizer_config.json declares {entry['content']} as token {token_id}, which the "
                "tokenizer's vocabulary contradicts; use the files of one checkpoint."
            )


def _check_vocab_size(tokenizer: Tokenizer, vocab_size: int) -> None:
    content, token_id = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if token_id >= vocab_size:
        raise InputError(
            f"The tokenizer gives {content} the id {token_id} and the model has {vocab_size} "
            "embeddings; use the tokenizer of this checkpoint."
        )


def _special_tokens(tokenizer: Tokenizer, rules: ChatRules) -> dict[str, SpecialToken]:
    added = {token.content: n for n, token in tokenizer.get_added_tokens_decoder().items()}
    if missing := [content for content in rules.special_tokens.values() if content not in added]:
        raise InputError(
            f"The tokenizer lacks the special tokens {', '.join(missing)}; "
            f"use the tokenizer files of {rules.title}."
        )
    spoken = {role: text for role, text in rules.text_tokens.items() if text in added}
    named = {**rules.special_tokens, **spoken}
    return {role: SpecialToken(text, added[text]) for role, text in named.items()}
