"""The model of an ONNX bundle: embeddings, vision and decoder, each a graph of any length.

Positions go in as numbers: the graphs hold the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mobile_runtime.bundle import Manifest, full_precision_path
from mobile_runtime.engines import EngineOptions
from mobile_runtime.engines.onnx import OnnxEngine, OnnxState, SessionSettings
from mobile_runtime.engines.onnx.prepacked import open_prepacked
from mobile_runtime.model.positions import position_ids
from mobile_runtime.pictures.preprocess import View, patches

Array = np.ndarray
_CACHE_STEP = 128  # positions by which the cache grows; each time, it is copied
_INTEGER_PRODUCTS = ("vision_encoder", "resampler")  # roles that may multiply 8-bit integers


class OnnxGraphs:
    """The graphs of a bundle by role, opened when they are first needed."""

    def __init__(self, bundle: Path, manifest: Manifest, options: EngineOptions) -> None:
        self._bundle, self._manifest, self._options = bundle, manifest, options
        self._open: dict[str, OnnxEngine] = {}

    def __getitem__(self, role: str) -> OnnxEngine:
        if role not in self._open:
            self._open[role] = self._load(role)
        return self._open[role]

    def _load(self, role: str) -> OnnxEngine:
        (graph,) = self._manifest.graphs_of(role)
        path, full = self._bundle / graph.path, self._options.precision == "fp32"
        if full and full_precision_path(path).is_file():
            path = full_precision_path(path)
        # Lookups are instant and idle onnxruntime threads spin: one thread, so that the decoder
        # keeps its cores.
        threads = 1 if role == "embed_tokens" else self._options.threads
        settings = SessionSettings(full, whole_sums=role in _INTEGER_PRODUCTS, threads=threads)
        cache = self._options.prepacked
        if cache is None or role == "embed_tokens":  # its rows are mapped as they are
            return OnnxEngine.load(path, settings)
        identity = "\n".join(f"{entry.path} {entry.sha256}" for entry in self._manifest.files)
        return OnnxEngine(open_prepacked(path, identity, settings, cache))


class OnnxEmbedding:
    """Token embeddings; implements `mobile_runtime.model.model.TokenEmbedding`."""

    def __init__(self, graphs: OnnxGraphs) -> None:
        self._graphs = graphs

    def __call__(self, input_ids: Array) -> Array:
        """(T,) ids -> (T, D) float32."""
        ids = np.asarray(input_ids, np.int64)[None]
        embeds: Array = self._graphs["embed_tokens"].run({"input_ids": ids})["inputs_embeds"][0]
        return embeds


class OnnxVision:
    """Views -> image embeddings; implements `mobile_runtime.model.model.VisionModel`."""

    def __init__(self, graphs: OnnxGraphs, manifest: Manifest) -> None:
        self._graphs, self._preprocessing = graphs, manifest.preprocessing

    def encode_view(self, view: View) -> Array:
        """Features of one view, (patches, vision hidden)."""
        ids = position_ids(*view.tgt_size, self._preprocessing.position_buckets)
        inputs: dict[str, Array] = {
            "pixel_values": patches(view).T[None].astype(np.float32),
            "position_ids": ids[None].astype(np.int64),
        }
        features: Array = self._graphs["vision_encoder"].run(inputs)["image_features"][0]
        return features

    def resample(
        self,
        features: Sequence[Array],
        sizes: Sequence[tuple[int, int]],
        temporal_ids: Sequence[int],
    ) -> Array:
        """Embeddings of one group of frames, (queries, D)."""
        grids = [np.indices(size).reshape(2, -1) for size in sizes]
        rows, columns = np.concatenate(grids, axis=1).astype(np.int64)
        inputs = {
            "image_features": np.concatenate(features)[None],
            "row_ids": rows,
            "column_ids": columns,
            "temporal_ids": np.repeat(temporal_ids, [h * w for h, w in sizes]).astype(np.int64),
        }
        embeds: Array = self._graphs["resampler"].run(inputs)["image_embeds"][0]
        return embeds


class OnnxDecoder:
    """The decoder with its cache; implements `mobile_runtime.model.model.TextModel`."""

    def __init__(self, graphs: OnnxGraphs, manifest: Manifest) -> None:
        self._graphs, self._manifest = graphs, manifest
        self._state: OnnxState | None = None

    def reset(self) -> None:
        """Do nothing: rows of the cache after the position are never read."""

    def rewind(self, position: int) -> int:
        """Return `position`: attention reads only as many rows as the mask is long."""
        return position

    def sibling(self) -> OnnxDecoder:
        """A second decoder on the same graph, with an empty cache."""
        return OnnxDecoder(self._graphs, self._manifest)

    def cache(self, length: int) -> dict[str, Array]:
        """Keys and values (1, kv_heads, length, head_dim) of every layer, as stored."""
        state, engine = self._room(length), self._engine
        return {name: engine.read_state(state, name)[:, :, :length] for name in state.buffers}

    def load_cache(self, cache: Iterable[tuple[str, Array]], length: int) -> None:
        """Begin with `length` positions that `cache` of another decoder gave."""
        state = self._room(length)
        for name, rows in cache:
            self._engine.write_state(state, name, rows)

    @cached_property
    def _engine(self) -> OnnxEngine:
        return self._graphs["decoder"]

    def next_logits(self, embeddings: Array, position: int) -> Array:
        """Run rows (n, D) from `position` on, in pieces; logits (vocab_size,) after the last."""
        *_, last = self._run(embeddings, position, keep=1)
        row: Array = last[-1]
        return row

    def logits_of(self, embeddings: Array, position: int = 0, keep: int | None = None) -> Array:
        """Run rows (n, D) from `position` on; logits (keep, vocab_size) after each of the last
        `keep` of them, or after all."""
        count = len(embeddings) if keep is None else keep
        return np.concatenate(list(self._run(embeddings, position, count)))[-count:]

    def _run(self, embeddings: Array, position: int, keep: int) -> Iterator[Array]:
        """Yield the logits of the rows of each piece that are among the last `keep` of all, or of
        its last row if none is."""
        state = self._room(position + len(embeddings))
        step = self._manifest.decoding.prefill_length
        for begin in range(0, len(embeddings), step):
            part = embeddings[begin : begin + step]
            kept = max(1, min(len(part), begin + len(part) - (len(embeddings) - keep)))
            inputs: dict[str, Array] = {
                "inputs_embeds": part[None].astype(np.float32),
                "attention_mask": np.ones((1, position + begin + len(part)), np.int64),
                "num_logits_to_keep": np.array([kept], np.int64),
            }
            yield self._engine.run(inputs, state=state)["logits"][0]

    def _room(self, length: int) -> OnnxState:
        """Return the cache with room for `length` positions. It grows in steps of `_CACHE_STEP`:
        memory follows the conversation, and portable attention reads the whole buffer."""
        if self._state is None or self._state.length < length:
            rounded = -(-length // _CACHE_STEP) * _CACHE_STEP
            rounded = min(rounded, self._manifest.decoding.context_length)
            engine, old = self._engine, self._state
            self._state = engine.resized(old, rounded) if old else engine.new_state(rounded)
        return self._state
