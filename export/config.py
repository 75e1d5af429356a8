"""What one export is asked to do. Every default is written here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_cache_path

from export.graphs.lm_head import MAX_DIMENSION
from export.models.config import ModelConfig
from mobile_runtime.bundle import Decoding, InputError

# Sizes of states that the Neural Engine accepts (and fast last axes) are multiples of this.
_ALIGNMENT = 32
_WORTH_A_PROCESS, _MOST_JOBS = 200_000_000, 4


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
    cache: Path = field(default_factory=lambda: user_cache_path("minicpmv-mobile", False))
    no_cache: bool = False
    cache_gb: float = 20.0
    jobs: int | None = None
    scheduler: str | None = None


def default_jobs(config: ExportConfig, parameters: int) -> int:
    """Processes for an export of so many weights: starting one costs as much as a small model."""
    if config.jobs is not None:
        return config.jobs
    return 1 if parameters < _WORTH_A_PROCESS else min(_MOST_JOBS, os.cpu_count() or 1)


def check_resources(config: ExportConfig) -> None:
    """Refuse impossible numbers of processes and bytes."""
    if config.jobs is not None and config.jobs < 1:
        raise InputError(f"--jobs {config.jobs} is not possible; give 1 or more.")
    if config.cache_gb < 0:
        raise InputError(f"--cache-gb {config.cache_gb:g} is not possible; give 0 or more.")


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
