"""The bodies of a release's graphs, from which every target builds its packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from export.graphs.decoder import Attend, decoder_layer
from export.graphs.graph import Ops, Parameter, Value
from export.graphs.lm_head import head_rows
from export.graphs.resampler import resample
from export.graphs.vision_encoder import encode_patches
from export.models.config import DecoderConfig, ModelConfig, VisionConfig


class EncodePatches(Protocol):
    """Blocks of the vision tower: see `export.graphs.vision_encoder.encode_patches`."""

    def __call__(
        self, ops: Ops, inputs: Mapping[str, Value], config: VisionConfig, layers: range
    ) -> Mapping[str, Value]: ...


class Resample(Protocol):
    """The resampler: see `export.graphs.resampler.resample`."""

    def __call__(
        self, ops: Ops, features: Value, scores: Callable[[Value], Value], config: ModelConfig
    ) -> Value: ...


class DecoderLayer(Protocol):
    """One block of the decoder: see `export.graphs.decoder.decoder_layer`."""

    def __call__(
        self, ops: Ops, x: Value, config: DecoderConfig, n: int, attend: Attend
    ) -> Any: ...


class HeadRows(Protocol):
    """Some rows of the LM head: see `export.graphs.lm_head.head_rows`."""

    def __call__(self, config: DecoderConfig, number: int, begin: int, end: int) -> Parameter: ...


@dataclass(frozen=True)
class Bodies:
    """One body per component of the model."""

    encode_patches: EncodePatches
    resample: Resample
    decoder_layer: DecoderLayer
    head_rows: HeadRows

    def names(self) -> dict[str, str]:
        """The function that each body is: module and name."""
        bodies = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: f"{body.__module__}.{body.__qualname__}" for name, body in bodies.items()}


# Qwen2 and Qwen3 share a body: their differences are data of `DecoderConfig`.
SIGLIP_RESAMPLER_QWEN = Bodies(encode_patches, resample, decoder_layer, head_rows)
