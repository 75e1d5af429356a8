"""The checkpoint in fp32 PyTorch, callable stage by stage with the runtime's prepared prompts.

The model may be larger than memory: weights are loaded part by part, used for all texts at hand,
and stay only as far as `LoadedWeights` has room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.checkpoint.source import TensorReader
from export.graphs.static.lm_head import lm_head_slices
from export.models.config import ModelConfig
from export.models.tensors import EMBED_TOKENS, LM_HEAD
from mobile_runtime.chat.conversation import PreparedPrompt
from mobile_runtime.model.positions import position_ids, sincos_2d, sincos_time
from mobile_runtime.pictures.preprocess import View, patches
from validation.reference.loaded import LoadedWeights
from validation.reference.minicpmv import build_empty, load_part
from validation.reference.qwen import KeyValueCache

Array = np.ndarray
LOADED_BYTES = 2 << 30  # the vision tower, the largest part, takes 1.65 GB


class Group(NamedTuple):
    """What the resampler takes for one group of frames."""

    features: Sequence[Array]  # of each view, (h·w, vision hidden)
    sizes: Sequence[tuple[int, int]]  # of each view, (h, w) in patches
    temporal_ids: Sequence[int]


@dataclass(frozen=True)
class Rows:
    """Hidden states (S, D) of a text from `position` on, and the text's keys and values."""

    hidden: Array
    position: int
    cache: KeyValueCache

    def followed_by(self, hidden: Array) -> Rows:
        """The rows that come next."""
        return Rows(hidden, self.position + len(self.hidden), self.cache)


class Reference:
    """Stages of the model with the weights of `source`. `loaded` may be shared with another
    reference; `key_query` gives folded queries for the resampler in place of its projections."""

    def __init__(
        self,
        config: ModelConfig,
        source: TensorReader,
        loaded: LoadedWeights | None = None,
        key_query: Callable[[], Array] | None = None,
    ) -> None:
        self.config, self._source, self._key_query = config, source, key_query
        self._loaded = LoadedWeights(LOADED_BYTES) if loaded is None else loaded
        self._empty = build_empty(config)

    def _part(self, name: str) -> nn.Module:
        values = sum(p.numel() for p in self._empty.get_submodule(name).parameters())
        return self._loaded.get((self._source, name), 4 * values, lambda: self._load(name))

    def _load(self, name: str) -> nn.Module:
        module = load_part(self._empty, name, self._source)
        if name == "resampler" and self._key_query is not None:
            module.key_query = torch.from_numpy(self._key_query())
        return module

    @torch.inference_mode()
    def encode_view(self, view: View) -> Array:
        """Features of one view, (h·w, vision hidden)."""
        ids = position_ids(*view.tgt_size, self.config.vision.position_buckets)
        values = torch.from_numpy(np.ascontiguousarray(patches(view).T))[None]
        valid = torch.ones(1, len(ids), dtype=torch.bool)
        ids_row = torch.from_numpy(ids.astype(np.int64))[None]
        return np.asarray(self._part("vpm")(values, ids_row, valid)[0].numpy())

    @torch.inference_mode()
    def resample(
        self,
        features: Sequence[Array],
        sizes: Sequence[tuple[int, int]],
        temporal_ids: Sequence[int],
    ) -> Array:
        """Embeddings of one group of frames, (queries, D)."""
        size = self.config.decoder.hidden_size
        times = sincos_time(temporal_ids, size)
        positions = [sincos_2d(h, w, size) + times[n] for n, (h, w) in enumerate(sizes)]
        embeds = self._part("resampler")(
            torch.from_numpy(np.concatenate(features)), torch.from_numpy(np.concatenate(positions))
        )
        return np.asarray(embeds.numpy())

    def encode_views(self, prompts: Sequence[PreparedPrompt]) -> list[list[list[Array]]]:
        """Features of the views of each group of each prompt."""
        return [[[self.encode_view(v) for v in views] for views in p.groups] for p in prompts]

    def image_embeds(self, prompts: Sequence[PreparedPrompt]) -> list[list[Array]]:
        """(queries, D) of every group of every prompt."""
        features = self.encode_views(prompts)
        groups = [picture_groups(p, found) for p, found in zip(prompts, features, strict=True)]
        return [[self.resample(*group) for group in found] for found in groups]

    def embed(self, input_ids: Array) -> Array:
        """Token embeddings, (T, D), read row by row."""
        ids, places = np.unique(np.asarray(input_ids), return_inverse=True)
        rows = np.empty((len(ids), self.config.decoder.hidden_size), np.float32)
        for row, token in zip(rows, ids.tolist(), strict=True):
            row[:] = self._source.read_rows(EMBED_TOKENS, token, token + 1)[0]
        return rows[places]

    def splice(self, prompt: PreparedPrompt, image_embeds: Sequence[Array]) -> Array:
        """Input embeddings of the whole prompt, (T, D)."""
        embeddings = self.embed(prompt.encoded.input_ids)
        for (begin, end), embeds in zip(prompt.encoded.image_bound, image_embeds, strict=True):
            embeddings[begin:end] = embeds
        return embeddings

    def start(self, hidden: Array, context_length: int | None = None) -> Rows:
        """The first rows (S, D) of a text that will have at most `context_length`, S by default."""
        room = len(hidden) if context_length is None else context_length
        return Rows(hidden, 0, KeyValueCache.empty(self.config.decoder, room))

    @torch.inference_mode()
    def run_layers(self, texts: Sequence[Rows], layers: range) -> list[Rows]:
        """The rows of every text after `layers`; a layer is loaded once for all of them."""
        hidden = [torch.from_numpy(np.asarray(rows.hidden, np.float32)) for rows in texts]
        for n in layers:
            hidden = self._run_layer(n, hidden, texts)
        return [replace(rows, hidden=x.numpy()) for rows, x in zip(texts, hidden, strict=True)]

    def _run_layer(self, n: int, hidden: list[Tensor], texts: Sequence[Rows]) -> list[Tensor]:
        layer = self._part(f"llm.model.layers.{n}")
        return [
            layer(x, rows.position, rows.cache, n) for x, rows in zip(hidden, texts, strict=True)
        ]

    @torch.inference_mode()
    def logits(self, hidden: Array) -> Array:
        """Hidden states (S, D) of the last layer -> (S, vocab), slice by slice of the head."""
        x = self._part("llm.model.norm")(torch.from_numpy(np.asarray(hidden, np.float32)))
        count, rows = lm_head_slices(self.config.decoder.vocab_size)
        slices = (self._head_slice(n * rows, (n + 1) * rows) for n in range(count))
        return np.concatenate([functional.linear(x, rows).numpy() for rows in slices], axis=1)

    def _head_slice(self, begin: int, end: int) -> Tensor:
        decoder = self.config.decoder
        name = EMBED_TOKENS if decoder.tie_word_embeddings else LM_HEAD
        end = min(end, decoder.vocab_size)

        def load() -> Tensor:
            return torch.from_numpy(self._source.read_rows(name, begin, end).astype(np.float32))

        nbytes = 4 * (end - begin) * decoder.hidden_size
        return self._loaded.get((self._source, name, begin), nbytes, load)


def picture_groups(prompt: PreparedPrompt, features: Sequence[Sequence[Array]]) -> list[Group]:
    """The resampler's inputs for each group of a prompt, given the features of its views."""
    triples = zip(features, prompt.groups, prompt.encoded.groups, strict=True)
    return [
        Group(found, [view.tgt_size for view in views], group.temporal_ids)
        for found, views, group in triples
    ]
