"""Checkpoints that bundles are compared with, opened together with their chat format."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from export.checkpoint import open_source
from export.checkpoint.locate import DEFAULT_CHECKPOINT, locate_checkpoint
from export.checkpoint.source import TensorSource, check_tensors, content_sha256
from export.host.tokenizer import build_tokenizer_files
from export.models.config import ModelConfig
from export.releases import ModelDescription, describe_model
from mobile_runtime.bundle import Manifest, read_manifest
from mobile_runtime.chat.conversation import ChatFormat
from mobile_runtime.chat.tokenizer import Tokenizer
from mobile_runtime.errors import InputError


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checked checkpoint, what its files say of the model, and its chat format."""

    folder: Path
    checkpoint: TensorSource
    described: ModelDescription
    chat_format: ChatFormat

    @property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        return self.described.config


def source_of(bundle: Path, given: str | None) -> OpenCheckpoint:
    """Open the checkpoint that `bundle` was made from: `given`, or the pocket model. Raises
    `InputError` if it is another one."""
    source = read_manifest(bundle).source
    if given is None and source.name != DEFAULT_CHECKPOINT.name:
        raise InputError(f"{bundle} was exported from {source.name}; give it with --checkpoint.")
    return open_checkpoint(given)


def check_source(manifest: Manifest, source: OpenCheckpoint) -> None:
    """Raises `InputError` if the bundle was made from other weights."""
    if manifest.source.sha256 != content_sha256(source.checkpoint):
        raise InputError(
            f"the bundle was not made from {source.folder} (its weights have another "
            "checksum); give the checkpoint that it was exported from."
        )


def open_checkpoint(given: str | None) -> OpenCheckpoint:
    """Open a checkpoint folder or hub id, or the pocket model for None."""
    folder = locate_checkpoint(given)
    described, checkpoint = describe_model(folder), open_source(folder)
    shapes = described.release.tensor_shapes(described.config)
    check_tensors(checkpoint, shapes, str(folder), described.release.title)
    chat_format = _chat_format(folder, described)
    return OpenCheckpoint(folder, checkpoint, described, chat_format)


def open_chat_format(folder: Path) -> ChatFormat:
    """The chat format that the files of a checkpoint describe; needs no weights."""
    return _chat_format(folder, describe_model(folder))


def _chat_format(folder: Path, described: ModelDescription) -> ChatFormat:
    vocabulary, rules = described.config.decoder.vocab_size, described.release.chat
    with tempfile.TemporaryDirectory() as scratch:
        prompt = build_tokenizer_files(folder, Path(scratch), vocabulary, rules)
        tokenizer = Tokenizer.load(Path(scratch) / "tokenizer.json")
    return ChatFormat(tokenizer, prompt, described.preprocessing)
