"""Options of one export. Every default is written here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_cache_path

from mobile_runtime.errors import InputError

_WORTH_A_PROCESS, _MOST_JOBS = 200_000_000, 4


@dataclass(frozen=True)
class ExportConfig:
    """The flags of `python -m export`, one field per flag.

    `checkpoint` is a folder or a hub id; None means the pocket model. Lengths are in tokens.
    """

    checkpoint: str | None = None
    adapters: tuple[str, ...] = ()  # FOLDER or FOLDER=WEIGHT each
    output: Path = Path("out")
    quant: str = "int4"
    override: Mapping[str, str] = field(default_factory=dict)
    calibration: str | None = None  # a file of examples, or "default"; None: as the recipe says
    calibration_tokens: int | None = None  # of texts, at most; None: see `export.calibration`
    gradients: bool = False  # of the examples, for a calibration
    distill: int = 0  # steps that end a calibration
    rotate: bool = False
    fit_half: int | None = None  # divisor of the residual stream
    device: str = "cpu"
    context_length: int = 2048
    prefill_length: int = 64
    kv_cache: str | None = None  # None: the default of the target for the recipe
    overwrite: bool = False
    plan: bool = False
    cache: Path = field(default_factory=lambda: user_cache_path("minicpmv-mobile", False))
    no_cache: bool = False
    cache_gb: float = 20.0
    jobs: int | None = None
    scheduler: str | None = None


def default_jobs(config: ExportConfig, parameters: int) -> int:
    """Return the number of processes for an export of `parameters` weights.

    It is 1 for a small model: starting a process takes as long as exporting one.
    """
    if config.jobs is not None:
        return config.jobs
    return 1 if parameters < _WORTH_A_PROCESS else min(_MOST_JOBS, os.cpu_count() or 1)


def check_resources(config: ExportConfig) -> None:
    """Raises `InputError` if a number that says how much is done is out of range."""
    if config.jobs is not None and config.jobs < 1:
        raise InputError(f"--jobs {config.jobs} is not possible; give 1 or more.")
    if config.cache_gb < 0:
        raise InputError(f"--cache-gb {config.cache_gb:g} is not possible; give 0 or more.")
    tokens = config.calibration_tokens
    if tokens is not None and tokens < 1:
        raise InputError(f"--calibration-tokens {tokens} is not possible; give 1 or more.")
    if config.distill < 0:
        raise InputError(f"--distill {config.distill} is not possible; give 0 or more.")
