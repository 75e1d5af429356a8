"""Opening what is compared: a checkpoint as a reference with its chat format."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.locate import DEFAULT_CHECKPOINT, locate_checkpoint
from export.host.tokenizer import build_tokenizer_files
from export.models.config import ModelConfig, load_config
from export.models.preprocessor import load_preprocessing
from export.models.tensors import tensor_shapes
from mobile_runtime.bundle import Manifest, read_manifest
from mobile_runtime.chat.conversation import ChatFormat
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.errors import InputError


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checked checkpoint, its configuration, and the chat format its files describe."""

    checkpoint: Checkpoint
    config: ModelConfig
    chat_format: ChatFormat


def source_of(bundle: Path, given: str | None) -> OpenCheckpoint:
    """The checkpoint that `bundle` was made from: `given`, or the pocket model."""
    source = read_manifest(bundle).source
    if given is None and source.name != DEFAULT_CHECKPOINT.name:
        raise InputError(f"{bundle} was exported from {source.name}; give it with --checkpoint.")
    return open_checkpoint(given)


def check_source(manifest: Manifest, source: OpenCheckpoint) -> None:
    """Refuse a bundle that was made from other weights."""
    if manifest.source.sha256 != source.checkpoint.sha256():
        raise InputError(
            f"the bundle was not made from {source.checkpoint.folder} (its weights have another "
            "checksum); give the checkpoint that it was exported from."
        )


def open_checkpoint(given: str | None) -> OpenCheckpoint:
    """Open a checkpoint folder or hub id, or the pocket model."""
    folder = locate_checkpoint(given)
    config = load_config(folder)
    checkpoint = Checkpoint(folder)
    checkpoint.check(tensor_shapes(config))
    return OpenCheckpoint(checkpoint, config, open_chat_format(folder, config))


def open_chat_format(folder: Path, config: ModelConfig) -> ChatFormat:
    """The chat format that the files of a checkpoint describe; needs no weights."""
    with tempfile.TemporaryDirectory() as scratch:
        prompt = build_tokenizer_files(folder, Path(scratch), config.decoder.vocab_size)
        tokenizer = Tokenizer.load(Path(scratch) / "tokenizer.json")
    return ChatFormat(tokenizer, prompt, load_preprocessing(folder, config))
