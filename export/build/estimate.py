"""Estimate of an export's bytes, memory and time, from rates measured on this machine.

A calibration multiplies T inputs with each matrix (m, n) twice over: to compute what it gives, and
for the second moments of each set of inputs that matrices share. It factorizes such moments two or
more times, n³/3 products each, and feeds errors back, m·n²/2. Drift is corrected by T more inputs
with each matrix, their moments with those that the matrix gets, n² for each, and equations, m·n²,
whose n³/6 are tried several times. A step of a distillation multiplies its positions with each
matrix four times: forward twice, and back to inputs and weights.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from export.build.job import Job
from export.plan import DISTILLED_POSITIONS, Plan
from export.quant.methods import FEEDBACK, STORED, Values, quantize
from export.quant.recipe import QuantSpec
from export.quant.statistics import Statistics

_SAMPLE = (128, 4096)  # weights
_PROCESS_BYTES = 500_000_000  # interpreter, converter, compiled kernels
_PART_SECONDS = 2.0  # building and writing a program of any size
_BYTES = 2  # of a weight in the checkpoint
_COPIES = 3  # of the largest tensor: the current one, the next one, the result
_WITH_GRADIENTS = 3  # more products of an input with each matrix: forward twice, and back once
_CHATS = 8_000  # tokens of the chats that ship, at most
_FACTORIZED = 2.5  # times, on average
_RIDGES_TRIED = 7  # the one that is taken twice
_FED_BACK = (2048, 128)  # weights


@dataclass(frozen=True)
class Estimate:
    """Estimate for an export on `jobs` processes; a slow disk may add to `seconds`.

    `calibration_seconds` come before it, on all cores; None without a calibration.
    """

    read_bytes: int
    written_bytes: int
    memory_bytes: int
    seconds: float
    jobs: int
    calibration_seconds: float | None

    def __str__(self) -> str:
        before = self.calibration_seconds
        calibrates = "" if before is None else f"calibrates for about {before / 60:.0f} min, then "
        return (
            f"{calibrates}"
            f"reads {self.read_bytes / 1e9:.2f} GB, writes {self.written_bytes / 1e9:.2f} GB, "
            f"about {self.memory_bytes / 1e9:.1f} GB of memory and {self.seconds:.0f} s on "
            f"{self.jobs} process{'es' if self.jobs > 1 else ''}, if the disk keeps up"
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
        calibration_seconds=None if plan.calibration is None else _calibration_seconds(job),
    )


def _calibration_seconds(job: Job) -> float:
    """Seconds on all cores of this machine, if it is given examples like those that ship."""
    calibration = job.plan.calibration
    assert calibration is not None
    inputs = _CHATS + calibration.text_tokens
    runs = 1 if job.plan.budget is None else 2  # trials run through all blocks before it
    times = runs + (_WITH_GRADIENTS if calibration.gradients else 0)
    readers = job.release.residual_stream(job.model).readers
    matrices = {parameter.name: parameter.shape for parameter in job.plan.calibrated}
    sites = {readers.get(name, name): shape[1] for name, shape in matrices.items()}
    products = runs * sum(inputs * n**2 / 2 + _FACTORIZED * n**3 / 3 for n in sites.values())
    products += sum(times * inputs * m * n + m * n**2 / 2 for m, n in matrices.values())
    values = sum(m * n for m, n in matrices.values())
    if calibration.corrects_drift:
        products += sum(inputs * n**2 + _RIDGES_TRIED * n**3 / 6 for n in sites.values())
        products += sum(inputs * m * n + m * n**2 for m, n in matrices.values())
    products += 4 * DISTILLED_POSITIONS * values * calibration.distill
    return products / _product_rate() + values / _feedback_rate(job.plan)


def _product_rate() -> float:
    """Measured multiplications per second of a matrix product on all cores."""
    size = 2048
    left, right = np.ones((size, size), np.float32), np.ones((size, size), np.float32)
    started = time.perf_counter()
    left @ right
    return size**3 / (time.perf_counter() - started)


def _feedback_rate(plan: Plan) -> float:
    """Measured weights per second on all cores that are rounded with error feedback."""
    rows, columns = _FED_BACK
    spec = plan.specs[plan.calibrated[0].name].fitted(_FED_BACK)
    rng = np.random.default_rng(0)
    array = rng.standard_t(4, _FED_BACK).astype(np.float32)
    inputs = rng.normal(size=(2, 2 * columns, columns)).astype(np.float32)
    parts = tuple(np.asarray(x.T @ x / len(x)) for x in inputs)
    for _ in range(2):  # the first time, kernels are compiled
        started = time.perf_counter()
        quantize(Values(array, "sample", rows), spec, Statistics(parts, (1, 1)))
        seconds = time.perf_counter() - started
    return array.size / seconds


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
