"""A checkpoint's model with activations that half precision holds, as `--fit-half` asks for it."""

from __future__ import annotations

from dataclasses import replace

from export.checkpoint.half_range import HalfRangeSource
from export.checkpoint.source import TensorSource
from export.releases.release import ModelDescription
from mobile_runtime.errors import InputError

LARGEST_DIVISOR = 1024
RECORDED = "fit_half"  # the key under which a bundle's recipe has the divisor


def check_divisor(divisor: int | None) -> None:
    """Raises `InputError` unless it is None or a power of two that a stream may be divided by."""
    if divisor is None:
        return
    if not 1 <= divisor <= LARGEST_DIVISOR or divisor & (divisor - 1):
        raise InputError(
            f"--fit-half {divisor} is not possible; give a power of two from 1 to "
            f"{LARGEST_DIVISOR}: 1 leaves the residual stream as it is."
        )


def fit_description(described: ModelDescription, divisor: int) -> ModelDescription:
    """The model whose stream is divided: its norms have another eps, and its head is its own."""
    decoder = replace(described.config.decoder, stream_divisor=divisor, tie_word_embeddings=False)
    return replace(described, config=replace(described.config, decoder=decoder))


def fit_source(source: TensorSource, described: ModelDescription, divisor: int) -> HalfRangeSource:
    """The tensors of that model."""
    change = described.release.half_range(described.config)
    return HalfRangeSource(source, change, divisor)
