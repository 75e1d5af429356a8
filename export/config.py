"""What one export is asked to do. Every default is written here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from export.graphs.lm_head import MAX_DIMENSION
from export.models.config import ModelConfig
from mobile_runtime.bundle import Decoding, InputError

# Sizes of states that the Neural Engine accepts (and fast last axes) are multiples of this.
_ALIGNMENT = 32


@dataclass(frozen=True)
class ExportConfig:
    """The flags of `python -m export`, one field each. No checkpoint: the pocket model."""

    checkpoint: str | None = None
    output: Path = Path("out")
    quant: str = "int4"
    override: Mapping[str, str] = field(default_factory=dict)
    context_length: int = 2048
    prefill_length: int = 64
    kv_cache: str = "state"
    overwrite: bool = False
    plan: bool = False


def check_decoding(config: ExportConfig, model: ModelConfig) -> Decoding:
    """The decoder's shapes, or `InputError` when the target or the model does not allow them."""
    context, prefill = config.context_length, config.prefill_length
    # With an outside cache the mask has a column for each cached and each new position.
    columns = MAX_DIMENSION - (prefill if config.kv_cache == "io" else 0)
    limit = min(columns, model.decoder.max_position_embeddings) // _ALIGNMENT * _ALIGNMENT
    if not (_ALIGNMENT <= context <= limit and context % _ALIGNMENT == 0):
        raise InputError(
            f"--context-length {context} is not possible; "
            f"give a multiple of {_ALIGNMENT} from {_ALIGNMENT} to {limit}."
        )
    groups = model.decoder.num_heads // model.decoder.num_kv_heads
    if not 2 <= prefill <= min(context, MAX_DIMENSION // groups):
        raise InputError(
            f"--prefill-length {prefill} is not possible; "
            f"give 2 to {min(context, MAX_DIMENSION // groups)} (64 suits the Neural Engine)."
        )
    if config.kv_cache not in ("state", "io"):
        raise InputError(f"--kv-cache {config.kv_cache} is not possible; give state or io.")
    return Decoding(context, prefill, "state" if config.kv_cache == "state" else "io")
