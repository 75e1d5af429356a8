"""The model of a bundle as a session drives it, whatever the bundle's format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

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
    """Decoder and head, with the cache of one conversation."""

    def reset(self) -> None:
        """Empty the cache."""

    def rewind(self, position: int) -> int:
        """Cut the cache back to `position`, or to an earlier one if it must be: a recurrent state
        can only be emptied. Returns how many positions are left, which is the position of the next
        row."""

    def sibling(self) -> TextModel:
        """A second decoder on the same open graphs, with an empty cache of its own."""

    def cache(self, length: int) -> Mapping[str, Array]:
        """What the cache holds of its first `length` positions, by name: views or copies, valid
        until the next row is run. Before that many have been run, zeros of the same shapes."""

    def load_cache(self, cache: Iterable[tuple[str, Array]], length: int) -> None:
        """Begin with `length` positions: the names and arrays of another decoder's `cache`."""

    def next_logits(self, embeddings: Array, position: int) -> Array:
        """Run rows (n, D) from `position` on; logits (vocab_size,) after the last."""

    def logits_of(self, embeddings: Array, position: int = 0, keep: int | None = None) -> Array:
        """Run rows (n, D) from `position` on; logits (keep, vocab_size) after each of the last
        `keep` of them, or after all."""


@dataclass(frozen=True)
class Model:
    """The parts of a bundle's model."""

    embedding: TokenEmbedding
    vision: VisionModel
    decoder: TextModel

    def encode_group(self, views: Sequence[View], temporal_ids: Sequence[int]) -> Array:
        """Views of one group of frames -> (queries, D)."""
        features = [self.vision.encode_view(view) for view in views]
        return self.vision.resample(features, [view.tgt_size for view in views], temporal_ids)
