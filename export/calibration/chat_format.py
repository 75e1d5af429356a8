"""The chat format of a checkpoint, as the runtime will use it; needs no weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

from export.host.tokenizer import build_tokenizer_files
from export.releases import describe_model
from mobile_runtime.chat.conversation import ChatFormat
from mobile_runtime.chat.tokenizer import Tokenizer


def open_chat_format(folder: Path) -> ChatFormat:
    """The chat format that the files of the checkpoint in `folder` describe."""
    described = describe_model(folder)
    vocabulary, rules = described.config.decoder.vocab_size, described.release.chat
    with tempfile.TemporaryDirectory() as scratch:
        prompt = build_tokenizer_files(folder, Path(scratch), vocabulary, rules)
        tokenizer = Tokenizer.load(Path(scratch) / "tokenizer.json")
    return ChatFormat(tokenizer, prompt, described.preprocessing)
