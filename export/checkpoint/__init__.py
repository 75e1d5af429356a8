"""Sources of weights: one interface for every kind of checkpoint on disk.

A new kind of checkpoint is one module that implements `TensorSource` and one line in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint import adapters
from export.checkpoint.calibrated import RECORD, CalibratedSource, read_record, stream_of
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.gguf import GgufSource, holds_gguf, read_config_beside
from export.checkpoint.quantized import QuantizedSource, is_quantized, read_dequantized_config
from export.checkpoint.rotation import RotatedSource
from export.checkpoint.source import TensorSource
from mobile_runtime.files import read_json

__all__ = ["SOURCES", "SourceKind", "TensorSource", "kind_of", "open_source"]


def _published_config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json", "give the folder of a checkpoint")


@dataclass(frozen=True)
class SourceKind:
    """A kind of checkpoint.

    `recognizes` says whether a folder is of this kind, `open` opens its tensors, and `read_config`
    returns its config.json without the keys that concern only this kind.
    """

    recognizes: Callable[[Path], bool]
    open: Callable[[Path], TensorSource]
    read_config: Callable[[Path], dict[str, Any]] = _published_config
    holds_weights: bool = False  # its source is a `WeightSource`


def _open_calibrated(folder: Path) -> TensorSource:
    record = read_record(folder)
    origin = open_source(Path(record["origin"]))
    rotated = RotatedSource(origin, stream_of(record), record["seed"])
    return CalibratedSource.open(rotated, folder)


def _open_adapted(folder: Path) -> TensorSource:
    origin, given = adapters.read_adapted_folder(folder)
    return adapters.merged_source(open_source(origin), given)


def _adapted_config(folder: Path) -> dict[str, Any]:
    origin, _ = adapters.read_adapted_folder(folder)
    return kind_of(origin).read_config(origin)


def _calibrated_config(folder: Path) -> dict[str, Any]:
    origin = Path(read_record(folder)["origin"])
    return {**kind_of(origin).read_config(origin), "tie_word_embeddings": False}


SOURCES: dict[str, SourceKind] = {
    "safetensors": SourceKind(Path.is_dir, Checkpoint),
    "quantized": SourceKind(
        is_quantized, QuantizedSource, read_dequantized_config, holds_weights=True
    ),
    "gguf": SourceKind(holds_gguf, GgufSource, read_config_beside, holds_weights=True),
    "adapted": SourceKind(
        lambda folder: (folder / adapters.RECORD).is_file(), _open_adapted, _adapted_config
    ),
    "calibrated": SourceKind(
        lambda folder: (folder / RECORD).is_file(),
        _open_calibrated,
        _calibrated_config,
        holds_weights=True,
    ),
}


def kind_of(folder: Path) -> SourceKind:
    """Return the kind of a checkpoint; of several that fit, the last in `SOURCES`."""
    fitting = [kind for kind in SOURCES.values() if kind.recognizes(folder)]
    return fitting[-1] if fitting else SOURCES["safetensors"]  # whose errors say what is wrong


def open_source(folder: Path) -> TensorSource:
    """Open the tensors of the checkpoint in `folder`."""
    return kind_of(folder).open(folder)
