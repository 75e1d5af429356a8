"""Estimate of an export's bytes, memory and time, from rates measured on this machine."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from export.build.job import Job
from export.plan import Plan
from export.quant.methods import FEEDBACK, STORED, Values, quantize
from export.quant.recipe import QuantSpec

_SAMPLE = (128, 4096)  # weights
_PROCESS_BYTES = 500_000_000  # interpreter, converter, compiled kernels
_PART_SECONDS = 2.0  # building and writing a program of any size
_BYTES = 2  # of a weight in the checkpoint
_COPIES = 3  # of the largest tensor: the current one, the next one, the result


@dataclass(frozen=True)
class Estimate:
    """Estimate for an export on `jobs` processes; a slow disk may add to `seconds`, and so does a
    calibration."""

    read_bytes: int
    written_bytes: int
    memory_bytes: int
    seconds: float
    jobs: int
    calibrates: bool

    def __str__(self) -> str:
        besides = "; the calibration before it is not estimated" if self.calibrates else ""
        return (
            f"reads {self.read_bytes / 1e9:.2f} GB, writes {self.written_bytes / 1e9:.2f} GB, "
            f"about {self.memory_bytes / 1e9:.1f} GB of memory and {self.seconds:.0f} s on "
            f"{self.jobs} process{'es' if self.jobs > 1 else ''}, if the disk keeps up{besides}"
        )


def estimate(job: Job, jobs: int) -> Estimate:
    """Measure this machine on samples and extrapolate."""
    plan = job.plan
    read, written = _BYTES * job.parameters, plan.bundle_bytes()
    work = (read + written) / _hash_rate() + _quantizing_seconds(plan)
    cores = min(jobs, os.cpu_count() or 1)
    largest = _BYTES * max(parameter.size for parameter in plan.parameters)
    return Estimate(
        read_bytes=read,
        written_bytes=written,
        memory_bytes=jobs * (_PROCESS_BYTES + _COPIES * largest),
        seconds=work / cores + _PART_SECONDS * (1 + len(plan.graphs)) / cores,
        jobs=jobs,
        calibrates=plan.examples is not None,
    )


def _quantizing_seconds(plan: Plan) -> float:
    """Seconds on one thread: the weights of each specification at their measured rate."""
    counts: Counter[QuantSpec] = Counter()
    for parameter in plan.parameters:
        spec = plan.specs[parameter.name]
        if parameter.is_matrix and spec.method not in (STORED, FEEDBACK):
            counts[spec.fitted(_SAMPLE)] += parameter.size
    return sum(count / _rate(spec) for spec, count in counts.items())


def _rate(spec: QuantSpec) -> float:
    """Measured weights per second on one thread."""
    array = np.random.default_rng(0).standard_t(4, _SAMPLE).astype(ml_dtypes.bfloat16)
    rows = spec.group_size if spec.form == "lut" else 1
    quantize(Values(array[:rows], "warm-up", rows, threads=1), spec)
    started = time.perf_counter()
    quantize(Values(array, "sample", len(array), threads=1), spec)
    return array.size / (time.perf_counter() - started)


def _hash_rate() -> float:
    """Measured bytes per second of SHA-256."""
    sample = bytes(1 << 24)
    started = time.perf_counter()
    hashlib.sha256(sample).digest()
    return len(sample) / (time.perf_counter() - started)
