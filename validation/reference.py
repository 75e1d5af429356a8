"""The checkpoint in fp32 PyTorch, callable stage by stage with the runtime's prepared prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from export.checkpoint import TensorSource
from export.models.config import ModelConfig
from export.models.minicpmv import build_empty, drop_part, load_part
from export.models.qwen3 import KeyValueCache
from export.quant.recipes import EMBED_TOKENS
from mobile_runtime.conversation import PreparedPrompt
from mobile_runtime.positions import position_ids, sincos_2d, sincos_time
from mobile_runtime.preprocess import View, patches

Array = np.ndarray
_LAYER_BYTES_KEPT = 8 << 30  # decoder layers stay loaded up to this size


class Reference:
    """Stages of the model. Weights come from `source`, part by part, when a stage needs them."""

    def __init__(self, config: ModelConfig, source: TensorSource) -> None:
        self.config, self._source = config, source
        self._model = build_empty(config)
        self._loaded: set[str] = set()
        self.cache: KeyValueCache | None = None

    def use_key_query(self, key_query: Array) -> None:
        """Take the resampler's folded queries instead of its own projections."""
        self._model.resampler.key_query = torch.from_numpy(key_query.astype(np.float32))

    def _ready(self, *parts: str) -> None:
        for part in parts:
            if part not in self._loaded:
                load_part(self._model, part, self._source)
                self._loaded.add(part)

    def _release(self, part: str) -> None:
        drop_part(self._model, part)
        self._loaded.discard(part)

    @torch.inference_mode()
    def encode_view(self, view: View) -> Array:
        """Features of one view, (h·w, vision hidden)."""
        self._ready("vpm")
        ids = position_ids(*view.tgt_size, self.config.vision.position_buckets)
        values = torch.from_numpy(np.ascontiguousarray(patches(view).T))[None]
        valid = torch.ones(1, len(ids), dtype=torch.bool)
        features = self._model.vpm(values, torch.from_numpy(ids.astype(np.int64))[None], valid)
        return np.asarray(features[0].numpy())

    @torch.inference_mode()
    def resample(
        self,
        features: Sequence[Array],
        sizes: Sequence[tuple[int, int]],
        temporal_ids: Sequence[int],
    ) -> Array:
        """Embeddings of one group of frames, (queries, D)."""
        self._ready("resampler")
        size = self.config.decoder.hidden_size
        times = sincos_time(temporal_ids, size)
        positions = [sincos_2d(h, w, size) + times[n] for n, (h, w) in enumerate(sizes)]
        embeds = self._model.resampler(
            torch.from_numpy(np.concatenate(features)), torch.from_numpy(np.concatenate(positions))
        )
        return np.asarray(embeds.numpy())

    def encode_group(self, views: Sequence[View], temporal_ids: Sequence[int]) -> Array:
        """Views of one group of frames -> (queries, D)."""
        features = [self.encode_view(view) for view in views]
        return self.resample(features, [view.tgt_size for view in views], temporal_ids)

    def image_embeds(self, prompt: PreparedPrompt) -> list[Array]:
        """(queries, D) of every group."""
        pairs = zip(prompt.groups, prompt.encoded.groups, strict=True)
        return [self.encode_group(views, group.temporal_ids) for views, group in pairs]

    def embed(self, input_ids: Array) -> Array:
        """Token embeddings, (T, D)."""
        return np.asarray(self._table[np.asarray(input_ids)].astype(np.float32))

    @cached_property
    def _table(self) -> Array:
        return self._source.read(EMBED_TOKENS)

    def splice(self, prompt: PreparedPrompt, image_embeds: Sequence[Array]) -> Array:
        """Input embeddings of the whole prompt, (T, D)."""
        embeddings = self.embed(prompt.encoded.input_ids)
        for (begin, end), embeds in zip(prompt.encoded.image_bound, image_embeds, strict=True):
            embeddings[begin:end] = embeds
        return embeddings

    def new_cache(self, context_length: int) -> None:
        """Start a sequence of at most `context_length` tokens."""
        self.cache = KeyValueCache.empty(self.config.decoder, context_length)

    @torch.inference_mode()
    def run_layers(self, hidden: Array, position: int, layers: range) -> Array:
        """Hidden states (S, D) from `position` through `layers`."""
        assert self.cache is not None, "call new_cache first"
        x = torch.from_numpy(np.ascontiguousarray(hidden, dtype=np.float32))
        for n in layers:
            part = f"llm.model.layers.{n}"
            self._ready(part)
            x = self._model.llm.run_layers(x, position, self.cache, range(n, n + 1))
            if not self._layers_fit():
                self._release(part)
        return np.asarray(x.numpy())

    def _layers_fit(self) -> bool:
        decoder = self.config.decoder
        attention = 2 * decoder.hidden_size * decoder.head_dim
        attention *= decoder.num_heads + decoder.num_kv_heads
        values = attention + 3 * decoder.hidden_size * decoder.intermediate_size
        return 4 * values * decoder.num_layers <= _LAYER_BYTES_KEPT

    @torch.inference_mode()
    def logits(self, hidden: Array) -> Array:
        """Hidden states (S, D) of the last layer -> (S, vocab)."""
        self._ready("llm.model.norm", "llm.lm_head")
        x = torch.from_numpy(np.ascontiguousarray(hidden, dtype=np.float32))
        return np.asarray(self._model.llm.logits(x).numpy())
