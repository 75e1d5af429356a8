"""What an export will take: bytes, memory, time; the rates are measured on the spot."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from export.build.job import Job
from export.quant.kmeans import palettize

_SAMPLE = (128, 4096)  # weights
_GROUP = 16
_PROCESS_BYTES = 500_000_000  # interpreter, converter, compiled kernels
_PART_SECONDS = 2.0  # building and writing a program of any size
_BYTES = 2  # of a weight in the checkpoint
_COPIES = 3  # of the largest tensor: the one at work, the next one, what is made of it


@dataclass(frozen=True)
class Estimate:
    """Of an export on `jobs` processes; the seconds are the processors', the disk may add some."""

    read_bytes: int
    written_bytes: int
    memory_bytes: int
    seconds: float
    jobs: int

    def __str__(self) -> str:
        return (
            f"reads {self.read_bytes / 1e9:.2f} GB, writes {self.written_bytes / 1e9:.2f} GB, "
            f"about {self.memory_bytes / 1e9:.1f} GB of memory and {self.seconds:.0f} s on "
            f"{self.jobs} process{'es' if self.jobs > 1 else ''}, if the disk keeps up"
        )


def estimate(job: Job, jobs: int) -> Estimate:
    """Measure this machine on a sample and extrapolate."""
    plan = job.plan
    parameters = [p for graph in plan.graphs for p in graph.parameters]
    matrices = sum(p.size for p in parameters if plan.specs.get(p.name) is not None)
    read, written = _BYTES * job.parameters, plan.bundle_bytes(job.model)
    work = matrices / _palettize_rate() + (read + written) / _hash_rate()
    cores = min(jobs, os.cpu_count() or 1)
    largest = _BYTES * max(p.size for p in parameters)
    return Estimate(
        read_bytes=read,
        written_bytes=written,
        memory_bytes=jobs * (_PROCESS_BYTES + _COPIES * largest),
        seconds=work / cores + _PART_SECONDS * (1 + len(plan.graphs)) / cores,
        jobs=jobs,
    )


def _palettize_rate() -> float:
    """Weights a second on one thread."""
    values = np.random.default_rng(0).standard_t(4, _SAMPLE).astype(ml_dtypes.bfloat16)
    palettize(values[:_GROUP], bits=4, group_size=_GROUP, name="warm-up", threads=1)
    started = time.perf_counter()
    palettize(values, bits=4, group_size=_GROUP, name="sample", threads=1)
    return values.size / (time.perf_counter() - started)


def _hash_rate() -> float:
    """Bytes a second."""
    sample = bytes(1 << 24)
    started = time.perf_counter()
    hashlib.sha256(sample).digest()
    return len(sample) / (time.perf_counter() - started)
