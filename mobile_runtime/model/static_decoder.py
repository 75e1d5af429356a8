"""The decoder of a bundle: embeddings and positions in, hidden states and logits out.

Owns the key/value cache of every package, in either form. It does not know what the tokens mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.bundle import CACHE, GraphSpec, Manifest
from mobile_runtime.engines import Engine, EngineOptions, open_engine
from mobile_runtime.engines.states import write_beginning
from mobile_runtime.model.positions import causal_mask, rope_tables
from mobile_runtime.model.static_vision import map_table

Array = np.ndarray


class StaticEmbedding:
    """Token embeddings out of the bundle's table."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        assert manifest.embed_tokens is not None
        self._table = map_table(bundle, manifest.embed_tokens.table)
        scales = manifest.embed_tokens.scales
        self._scales = None if scales is None else map_table(bundle, scales)

    def __call__(self, input_ids: Array) -> Array:
        """(T,) ids -> (T, D) float32."""
        rows = self._table[input_ids].astype(np.float32)
        if self._scales is not None:
            rows *= self._scales[input_ids, None].astype(np.float32)
        return np.asarray(rows)


class StaticGraphs:
    """The packages of the decoder and of the head, opened when they are first needed."""

    def __init__(self, bundle: Path, manifest: Manifest, options: EngineOptions) -> None:
        self._bundle, self._manifest, self._options = bundle, manifest, options

    @cached_property
    def decoder(self) -> list[tuple[GraphSpec, Engine]]:
        """The packages, in the order in which they run."""
        return self._open("decoder")

    @cached_property
    def heads(self) -> list[tuple[GraphSpec, Engine]]:
        """The packages of the head."""
        return self._open("lm_head")

    def _open(self, role: str) -> list[tuple[GraphSpec, Engine]]:
        graphs = self._manifest.graphs_of(role)
        return [(graph, open_engine(self._bundle / graph.path, self._options)) for graph in graphs]


class StaticPackage:
    """One package with its cache."""

    def __init__(self, graph: GraphSpec, engine: Engine) -> None:
        self.graph = graph
        self._engine = engine
        self._state: Any = None
        self._cache: Array | None = None
        self.reset()

    def reset(self) -> None:
        """Empty the cache."""
        if self.graph.states:
            self._state = self._engine.new_state()
        else:
            (cache,) = (s for s in self.graph.functions[0].inputs if s.name == CACHE)
            self._cache = np.zeros(cache.shape, np.float32)

    def cache(self) -> Array:
        """The keys and values of the whole context, (2·layers, kv_heads, context, head_dim)."""
        return self._engine.read_state(self._state, CACHE) if self._cache is None else self._cache

    def load_cache(self, rows: Array) -> None:
        """Overwrite the first positions with `rows`, (2·layers, kv_heads, positions, head_dim)."""
        if self._cache is None:
            self._engine.write_state(self._state, CACHE, rows)
        else:
            write_beginning(self._cache, rows)

    def run(self, function: str, inputs: dict[str, Array], position: int, valid: int) -> Array:
        """Run one block whose first `valid` rows count; returns its hidden states."""
        if self._cache is None:
            position_input = {"position": np.array([position], np.int32)}
            outputs = self._engine.run(
                inputs | position_input, function=function, state=self._state
            )
        else:
            outputs = self._engine.run(inputs | {CACHE: self._cache}, function=function)
            new = outputs["new_key_value_rows"][:, :, :valid]
            self._cache[:, :, position : position + valid] = new
        return outputs["output_hidden_states"]


class StaticDecoder:
    """All packages in a row, then the head."""

    def __init__(self, graphs: StaticGraphs, manifest: Manifest) -> None:
        self._graphs, self._manifest = graphs, manifest
        self._decoding = manifest.decoding

    @cached_property
    def packages(self) -> list[StaticPackage]:
        """The packages with the caches of this decoder."""
        return [StaticPackage(graph, engine) for graph, engine in self._graphs.decoder]

    def sibling(self) -> StaticDecoder:
        """A second decoder on the same packages, with empty caches."""
        return StaticDecoder(self._graphs, self._manifest)

    def cache(self, length: int) -> dict[str, Array]:
        """Keys and values (2·layers, kv_heads, length, head_dim) of each package, by its name."""
        return {package.graph.name: package.cache()[:, :, :length] for package in self.packages}

    def load_cache(self, cache: Iterable[tuple[str, Array]], length: int) -> None:
        """Begin with `length` positions that `cache` of another decoder gave."""
        packages = {package.graph.name: package for package in self.packages}
        for name, rows in cache:
            packages[name].load_cache(rows)

    def reset(self) -> None:
        """Empty the cache of every package."""
        for package in self.packages:
            package.reset()

    def rewind(self, position: int) -> int:
        """Return `position`: the mask hides what the caches hold after it."""
        return position

    def block_length(self, remaining: int, position: int) -> int:
        """Return the rows of the next block: `prefill_length`, or 1 if a single row remains or a
        prefill block would pass the cache's end."""
        length = self._decoding.prefill_length
        fits = position + length <= self._decoding.context_length
        return length if fits and remaining > 1 else 1

    def block_inputs(self, embeddings: Array, position: int, length: int) -> dict[str, Array]:
        """Inputs shared by all packages for rows (n ≤ length, D) that start at `position`."""
        architecture, decoding = self._manifest.architecture, self._decoding
        hidden = np.zeros((1, embeddings.shape[1], 1, length), np.float32)
        hidden[0, :, 0, : len(embeddings)] = embeddings.T
        positions = np.arange(position, position + length)
        cos, sin = rope_tables(positions, architecture.head_dim, architecture.rope_theta)
        return {
            "hidden_states": hidden,
            "cos": cos.T[None, None],
            "sin": sin.T[None, None],
            "attention_mask": causal_mask(
                position, length, decoding.context_length, decoding.kv_cache == "state"
            ),
        }

    def run_block(self, embeddings: Array, position: int) -> Array:
        """Run rows (n, D), at most one block, from `position`; returns hidden states (n, D)."""
        valid = len(embeddings)
        length = self.block_length(valid, position)
        function = "decode" if length == 1 else "prefill"
        inputs = self.block_inputs(embeddings, position, length)
        for package in self.packages:
            hidden = package.run(function, inputs, position, valid)
            inputs = inputs | {"hidden_states": hidden}
        return inputs["hidden_states"][0, :, 0, :valid].T

    def next_logits(self, embeddings: Array, position: int) -> Array:
        """Run rows (n, D) from `position` on; logits (vocab_size,) after the last."""
        return self.logits(self.run(embeddings, position))

    def logits_of(self, embeddings: Array, position: int = 0, keep: int | None = None) -> Array:
        """Run rows (n, D) from `position` on; logits (keep, vocab_size) after each of the last
        `keep` of them, or after all."""
        first = 0 if keep is None else len(embeddings) - keep
        rows: list[Array] = []
        for done, hidden in self._blocks(embeddings, position):
            rows += [self.logits(row) for row in hidden[max(0, first - done) :]]
        return np.stack(rows)

    def run(self, embeddings: Array, position: int) -> Array:
        """Run any number of rows in blocks; returns the hidden state of the last, (D,)."""
        *_, (_, hidden) = self._blocks(embeddings, position)
        return np.asarray(hidden[-1])

    def _blocks(self, embeddings: Array, position: int) -> Iterator[tuple[int, Array]]:
        """Run rows in blocks: yields the number of rows before each and its hidden states."""
        done = 0
        while done < len(embeddings):
            length = self.block_length(len(embeddings) - done, position + done)
            yield done, self.run_block(embeddings[done : done + length], position + done)
            done += length

    def logits(self, hidden: Array) -> Array:
        """Hidden state (D,) of the last package -> logits (vocab_size,), padding removed."""
        inputs = {"hidden_states": hidden[None, :, None, None]}
        slices: dict[str, Array] = {}
        for _, head in self._graphs.heads:
            slices |= head.run(inputs, function="main")
        joined = np.concatenate([slices[name].reshape(-1) for name in sorted(slices)])
        return joined[: self._manifest.architecture.vocab_size]
