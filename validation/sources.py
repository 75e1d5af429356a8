"""Opening what is compared: a checkpoint as a reference with its chat format."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.checkpoint import Checkpoint, locate_checkpoint
from export.models.config import ModelConfig, load_config
from export.models.preprocessor import load_preprocessing
from export.models.tensors import tensor_shapes
from export.random_model import write_random_checkpoint
from export.tokenizer import build_tokenizer_files
from mobile_runtime.bundle import InputError, read_manifest
from mobile_runtime.conversation import ChatFormat
from mobile_runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checked checkpoint, its configuration, and the chat format its files describe."""

    checkpoint: Checkpoint
    config: ModelConfig
    chat_format: ChatFormat


@contextmanager
def source_of(bundle: Path, given: str | None) -> Iterator[OpenCheckpoint]:
    """The checkpoint that `bundle` was made from: `given`, or, for the seeded random weights, made
    again."""
    if given is not None:
        yield open_checkpoint(given)
        return
    source = read_manifest(bundle).source
    if not source.random_weights:
        raise InputError(f"{bundle} was exported from {source.name}; give it with --checkpoint.")
    with tempfile.TemporaryDirectory() as scratch:
        write_random_checkpoint(Path(scratch))
        yield open_checkpoint(scratch)


def open_checkpoint(given: str) -> OpenCheckpoint:
    """Open a checkpoint folder or hub id."""
    folder = locate_checkpoint(given)
    config = load_config(folder)
    checkpoint = Checkpoint(folder)
    checkpoint.check(tensor_shapes(config))
    with tempfile.TemporaryDirectory() as scratch:
        prompt = build_tokenizer_files(folder, Path(scratch), config.decoder.vocab_size)
        tokenizer = Tokenizer.load(Path(scratch) / "tokenizer.json")
    chat_format = ChatFormat(tokenizer, prompt, load_preprocessing(folder, config))
    return OpenCheckpoint(checkpoint, config, chat_format)
