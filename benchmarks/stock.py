"""The stock way to an int4 decoder with `prefill` and `decode`: a PyTorch module, `ct.convert`,
`palettize_weights`, `save_multifunction`.

It follows Apple's own example of a stateful language model: plain operations, linear layers, keys
and values in float16 states that a slice assignment updates. Functions are converted and palettized
one by one; in a merged package, too, `palettize_weights` would visit each function by itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import torch
from coremltools.optimize.coreml import _quantization_passes as passes
from safetensors.torch import load_file
from torch import Tensor, nn

from export.models.config import DecoderConfig
from export.quant.recipe import QuantSpec
from mobile_runtime.bundle import Decoding
from validation.reference.qwen import DecoderLayer

STATES = ("key_cache", "value_cache")
_TARGET = ct.target.iOS18
_PREFIX = "llm.model."


class StatefulDecoder(nn.Module):
    """Decoder layers whose keys and values are buffers, (layers, kv_heads, context, head_dim)."""

    key_cache: Tensor
    value_cache: Tensor

    def __init__(self, config: DecoderConfig, context_length: int) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        shape = (config.num_layers, config.num_kv_heads, context_length, config.head_dim)
        for name in STATES:
            self.register_buffer(name, torch.zeros(shape, device="cpu"), persistent=False)

    def forward(
        self, hidden_states: Tensor, cos: Tensor, sin: Tensor, attention_mask: Tensor, position: Any
    ) -> Tensor:
        """(1, S, hidden), twice (S, head_dim), (1, 1, S, context), (1,) -> (1, S, hidden)."""
        x = hidden_states
        layers: Any = self.layers
        for n, layer in enumerate(layers):
            h = layer.input_layernorm(x)
            q, k, v = self._project(layer.self_attn, h)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            keys, values = self._write(n, position, k, v)
            scores = q @ keys.transpose(-1, -2) * self.config.head_dim**-0.5 + attention_mask
            attended = scores.softmax(-1) @ values
            x = x + layer.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return x

    def _project(self, attention: Any, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed queries, normed keys and values, (1, heads, S, head_dim)."""
        q, k, v = (
            projection(h).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return attention.q_norm(q), attention.k_norm(k), v

    def _write(self, n: int, position: Any, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (1, kv_heads, S, head_dim) rows; return all rows, for every query head."""
        end = position + k.shape[2]
        self.key_cache[n : n + 1, :, position:end] = k
        self.value_cache[n : n + 1, :, position:end] = v
        groups = self.config.num_heads // self.config.num_kv_heads
        keys, values = self.key_cache[n : n + 1], self.value_cache[n : n + 1]
        return keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def write_stock(
    weights: Path, config: DecoderConfig, decoding: Decoding, spec: QuantSpec, path: Path
) -> dict[str, float]:
    """Write the package `path`, each function's own beside it; return the seconds of each step."""
    seconds: dict[str, float] = {}
    with _timed("load", seconds):
        module = load_module(weights, config, decoding.context_length)
    functions = {"prefill": decoding.prefill_length, "decode": 1}
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, length in functions.items():
        with _timed("convert", seconds):
            model = convert(module, length)
        with _timed("palettize", seconds):
            model = palettize(model, spec)
        single = path.with_name(f"{name}.mlpackage")
        with _timed("save", seconds):
            model.save(str(single))
        descriptor.add_function(str(single), "main", name)
    descriptor.default_function_name = "decode"
    with _timed("merge", seconds):
        ct.utils.save_multifunction(descriptor, str(path))
    return seconds


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = seconds.get(step, 0) + time.perf_counter() - start


def load_module(weights: Path, config: DecoderConfig, context_length: int) -> StatefulDecoder:
    """The module in float32, which the tracer needs on a CPU, without initializing it first."""
    with torch.device("meta"):
        module = StatefulDecoder(config, context_length)
    tensors = {
        name.removeprefix(_PREFIX): tensor.float() for name, tensor in load_file(weights).items()
    }
    module.load_state_dict(tensors, assign=True)
    return module.eval()


@torch.no_grad()
def convert(module: StatefulDecoder, length: int) -> Any:
    """A Core ML model of one call with `length` positions."""
    config, context = module.config, module.key_cache.shape[2]
    shapes = {
        "hidden_states": (1, length, config.hidden_size),
        "cos": (length, config.head_dim),
        "sin": (length, config.head_dim),
        "attention_mask": (1, 1, length, context),
    }
    position = torch.zeros(1, dtype=torch.int32)
    examples = (*(torch.zeros(shape) for shape in shapes.values()), position)
    traced = torch.jit.trace(module, examples, check_trace=False)  # type: ignore[no-untyped-call]
    inputs = [ct.TensorType(n, shape, dtype=np.float16) for n, shape in shapes.items()]
    cache = ct.TensorType(shape=tuple(module.key_cache.shape), dtype=np.float16)
    return ct.convert(
        traced,
        inputs=[*inputs, ct.TensorType("position", (1,), dtype=np.int32)],
        outputs=[ct.TensorType("output_hidden_states", dtype=np.float16)],
        states=[ct.StateType(wrapped_type=cache, name=name) for name in STATES],
        minimum_deployment_target=_TARGET,
        skip_model_load=True,
    )


def palettize(model: Any, spec: QuantSpec) -> Any:
    """k-means in groups of rows, with one worker per core."""
    config = cto.OpPalettizerConfig(
        mode="kmeans",
        nbits=spec.bits,
        granularity="per_grouped_channel",
        group_size=spec.group_size,
        num_kmeans_workers=os.cpu_count(),
    )
    palettized = cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))
    release_workers()
    return palettized


def release_workers() -> None:
    """coremltools 9.1.dev1 closes its pool after a call, but keeps it: the next call in the same
    process would fail ("Pool not running"). Waiting for the workers lets their memory be counted.
    """
    pool = passes.palettize_weights._compress_pool
    if pool is not None:
        pool.close()
        pool.join()
        passes.palettize_weights._compress_pool = None
