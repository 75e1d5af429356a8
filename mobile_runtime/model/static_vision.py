"""Views -> image embeddings: drives the vision encoder and the resampler of a bundle.

Everything that depends on positions is computed here on the host: the rows of the position table,
the masks, and the resampler's score bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mobile_runtime.bundle import Manifest, TensorFile, resolve_inside
from mobile_runtime.engines import Engine, EngineOptions, open_engine
from mobile_runtime.model.positions import MASKED, position_ids, sincos_1d, sincos_time
from mobile_runtime.pictures.preprocess import View, patches

Array = np.ndarray


def map_table(bundle: Path, file: TensorFile) -> Array:
    """A raw array of the bundle, mapped into memory."""
    path = resolve_inside(bundle, file.path)
    return np.memmap(path, dtype=np.dtype(file.dtype), mode="r", shape=file.shape)


class StaticVision:
    """The vision half of a bundle; packages are opened when they are first needed."""

    def __init__(self, bundle: Path, manifest: Manifest, options: EngineOptions) -> None:
        self._bundle, self._manifest, self._options = bundle, manifest, options
        self._length = manifest.preprocessing.max_patches

    @cached_property
    def _encoders(self) -> list[Engine]:
        graphs = self._manifest.graphs_of("vision_encoder")
        return [open_engine(self._bundle / graph.path, self._options) for graph in graphs]

    @cached_property
    def _resampler(self) -> Engine:
        (graph,) = self._manifest.graphs_of("resampler")
        return open_engine(self._bundle / graph.path, self._options)

    @cached_property
    def _position_table(self) -> Array:
        table = self._manifest.position_embeddings
        assert table is not None
        return map_table(self._bundle, table)

    @cached_property
    def _key_query(self) -> Array:
        """(heads·queries, D) float32."""
        table = self._manifest.resampler_key_query
        assert table is not None
        return map_table(self._bundle, table).astype(np.float32)

    def encoder_inputs(self, view: View) -> dict[str, Array]:
        """Return the vision encoder's inputs for one view, padded to its static length."""
        h, w = view.tgt_size
        size, count, length = self._manifest.architecture.vision_hidden_size, h * w, self._length
        values = np.zeros(
            (1, 3 * self._manifest.preprocessing.patch_size**2, 1, length), np.float32
        )
        values[0, :, 0, :count] = patches(view)
        embeddings = np.zeros((1, size, 1, length), np.float32)
        buckets = self._manifest.preprocessing.position_buckets
        embeddings[0, :, 0, :count] = self._position_table[position_ids(h, w, buckets)].T
        mask = np.full((1, 1, 1, length), MASKED, np.float32)
        mask[..., :count] = 0
        return {"patches": values, "position_embeddings": embeddings, "attention_mask": mask}

    def encode_view(self, view: View) -> Array:
        """Features of one view, (patches, vision hidden)."""
        inputs = self.encoder_inputs(view)
        outputs = self._encoders[0].run(inputs, function="main")
        for encoder in self._encoders[1:]:
            hidden = {"hidden_states": outputs["output_hidden_states"]}
            mask = {"attention_mask": inputs["attention_mask"]}
            outputs = encoder.run(hidden | mask, function="main")
        h, w = view.tgt_size
        return outputs["image_features"][0, :, 0, : h * w].T

    def score_bias(self, sizes: Sequence[tuple[int, int]], temporal_ids: Sequence[int]) -> Array:
        """(1, heads·queries, 1, frames·L): key_query · (position + time), padded patches masked.

        The position is separable: half of the width belongs to the column, half to the row. Each
        row's maximum is subtracted: the softmax does not change, and float16 keeps more precision.
        """
        half = self._key_query.shape[1] // 2
        times = self._key_query @ sincos_time(temporal_ids, 2 * half).T  # (rows, frames)
        grids = []
        for n, (h, w) in enumerate(sizes):
            columns = self._key_query[:, :half] @ sincos_1d(np.arange(w), half).T
            lines = self._key_query[:, half:] @ sincos_1d(np.arange(h), half).T
            grid = lines[:, :, None] + columns[:, None, :] + times[:, n, None, None]
            grids.append(grid.reshape(len(grid), h * w))
        top = np.concatenate(grids, axis=1).max(axis=1, keepdims=True)
        bias = np.full((len(top), len(sizes), self._length), MASKED, np.float32)
        for n, grid in enumerate(grids):
            bias[:, n, : grid.shape[1]] = np.maximum(grid - top, MASKED)
        return bias.reshape(1, len(top), 1, -1)

    def resampler_inputs(
        self,
        features: Sequence[Array],
        sizes: Sequence[tuple[int, int]],
        temporal_ids: Sequence[int],
    ) -> dict[str, Array]:
        """Return the resampler's inputs for one group of frames."""
        padded = [np.pad(f.T, ((0, 0), (0, self._length - len(f)))) for f in features]
        joined = np.concatenate(padded, axis=1)[None, :, None, :]
        return {"image_features": joined, "score_bias": self.score_bias(sizes, temporal_ids)}

    def resample(
        self,
        features: Sequence[Array],
        sizes: Sequence[tuple[int, int]],
        temporal_ids: Sequence[int],
    ) -> Array:
        """Embeddings of one group, (queries, D)."""
        inputs = self.resampler_inputs(features, sizes, temporal_ids)
        outputs = self._resampler.run(inputs, function=f"frames_{len(features)}")
        return outputs["image_embeds"][0, :, 0, :].T
