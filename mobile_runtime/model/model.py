"""The model of a bundle as a session drives it, whatever the bundle's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mobile_runtime.bundle import Manifest
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.model.static_decoder import Decoder, Embedding
from mobile_runtime.model.static_vision import Vision
from mobile_runtime.pictures.preprocess import View

Array = np.ndarray


class TokenEmbedding(Protocol):
    """Token embeddings."""

    def __call__(self, input_ids: Array) -> Array:
        """(T,) ids -> (T, D) float32."""


class VisionModel(Protocol):
    """Vision encoder and resampler."""

    def encode_view(self, view: View) -> Array:
        """Features of one view, (patches, vision hidden)."""

    def resample(
        self,
        features: Sequence[Array],
        sizes: Sequence[tuple[int, int]],
        temporal_ids: Sequence[int],
    ) -> Array:
        """Embeddings of one group of frames, (queries, D)."""


class TextModel(Protocol):
    """Decoder and head, with one conversation's cache."""

    def reset(self) -> None:
        """Empty the cache."""

    def next_logits(self, embeddings: Array, position: int) -> Array:
        """Run rows (n, D) from `position` on; logits (vocab_size,) after the last."""

    def logits_of(self, embeddings: Array) -> Array:
        """Run rows (n, D) from an empty cache; logits (n, vocab_size) after each."""


@dataclass(frozen=True)
class Model:
    """What one bundle computes with."""

    embedding: TokenEmbedding
    vision: VisionModel
    decoder: TextModel

    def encode_group(self, views: Sequence[View], temporal_ids: Sequence[int]) -> Array:
        """Views of one group of frames -> (queries, D)."""
        features = [self.vision.encode_view(view) for view in views]
        return self.vision.resample(features, [view.tgt_size for view in views], temporal_ids)


def open_model(bundle: Path, manifest: Manifest, options: EngineOptions) -> Model:
    """The parts of a bundle; packages are opened when they are first needed."""
    if manifest.is_onnx != (options.name == "onnx") and options.name != "auto":
        raise InputError(
            f"the engine {options.name} does not run {manifest.format} bundles; use the engine "
            f"{'onnx' if manifest.is_onnx else 'mil or coreml'}, or none."
        )
    if not manifest.is_onnx:
        return Model(
            Embedding(bundle, manifest),
            Vision(bundle, manifest, options),
            Decoder(bundle, manifest, options),
        )
    from mobile_runtime.model.onnx import OnnxDecoder, OnnxEmbedding, OnnxGraphs, OnnxVision

    graphs = OnnxGraphs(bundle, manifest, options)
    return Model(OnnxEmbedding(graphs), OnnxVision(graphs, manifest), OnnxDecoder(graphs, manifest))
