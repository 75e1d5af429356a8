"""The parts of a bundle that are built independently: each package, and the host's tables.

A request holds all that another process, or another machine with the same files, needs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from export.backends import BACKENDS
from export.build.code_digest import code_digest
from export.build.job import Job, open_job
from export.build.memory import peak_memory
from export.build.part_cache import Entry, PartCache
from export.checkpoint.readings import HashedSource
from export.checkpoint.source import TensorSource, statistics_digest
from export.config import ExportConfig
from export.graphs.graph import Graph, Parameter
from export.graphs.weights import observed, store
from export.host.tables import write_tables
from export.models.tensors import EMBED_TOKENS
from export.plan import Plan
from export.quant.weights import Weight

Advance = Callable[[int], None]


@dataclass(frozen=True)
class PartRequest:
    """Build one part of the export that `config` describes, in the cache."""

    part: str
    checkpoint: Path
    config: ExportConfig
    backend: str
    cache: Path
    owner: str
    threads: int


@dataclass(frozen=True)
class Part:
    """A finished part."""

    name: str
    entry: Entry
    reused: bool
    seconds: float
    phases: Mapping[str, float]  # name -> seconds
    peak_memory: int  # bytes, of the process that built it, so far


def build_part(request: PartRequest, advance: Advance | None = None) -> Part:
    """Find the part in the cache, or build it there.

    `advance` is called with each number of weights done. Without it, their sum is written to the
    file `progress` in the part's workplace.
    """
    started = time.monotonic()
    job = open_job(request.checkpoint, request.config, BACKENDS[request.backend])
    cache, key = PartCache(request.cache), part_key(job, request.part)
    entry = cache.find(key, job.source)
    reused = entry is not None
    phases: dict[str, float] = {}
    if entry is None:
        folder = cache.workplace(request.owner, request.part)
        source = HashedSource(job.source)
        meter = advance or _Meter(folder / "progress")
        phases = _write(job, request, source, folder / "content", meter)
        entry = cache.keep(key, folder, job.source, source.readings())
    elif advance is not None:
        advance(job.part_sizes[request.part])
    seconds = time.monotonic() - started
    phases["writing"] = seconds - sum(phases.values())
    return Part(request.part, entry, reused, seconds, phases, peak_memory())


def part_key(job: Job, part: str) -> str:
    """Digest of everything but the weights that determines a part's bytes."""
    graph = _graph(job.plan, part)
    specs = job.plan.specs
    parameters = job.plan.tables if graph is None else graph.parameters
    described = {
        "part": part,
        "blocks": None if graph is None else [graph.blocks.start, graph.blocks.stop],
        "specs": {p.name: asdict(specs[p.name]) for p in parameters},
        "statistics": statistics_digest(job.source),
        "bodies": job.release.bodies.names(),
        "model": asdict(job.model),
        "decoding": asdict(job.plan.decoding),
        "patches": job.described.preprocessing.max_patches,
        "backend": job.backend.name,
        "tools": {**job.backend.versions(), "numpy": np.__version__, "numba": version("numba")},
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _graph(plan: Plan, part: str) -> Graph | None:
    return next((graph for graph in plan.graphs if graph.name == part), None)


def _write(
    job: Job, request: PartRequest, source: TensorSource, folder: Path, advance: Advance
) -> dict[str, float]:
    """Write the part's files; return seconds spent waiting for weights and quantizing them."""
    graph = _graph(job.plan, request.part)
    phases = {"waiting for weights": 0.0, "quantizing": 0.0}
    if graph is None:
        write_tables(job.model, job.plan.specs[EMBED_TOKENS], source, folder, advance)
        return phases

    def weights() -> Iterator[tuple[Parameter, Weight]]:
        for parameter, coming in _read_ahead(graph.parameters, source):
            begun = time.monotonic()
            values = coming.result()
            come = time.monotonic()
            spec = job.plan.specs[parameter.name]
            seen = observed(parameter, source)
            weight = store(parameter, values, spec, seen, request.threads)
            del values  # the next tensor is in memory already
            phases["waiting for weights"] += come - begun
            phases["quantizing"] += time.monotonic() - come
            yield parameter, weight
            advance(parameter.size)

    path = folder / f"{graph.name}{job.backend.suffix}"
    job.backend.convert(graph, job.plan.specs, weights(), path)
    return phases


def _read_ahead(
    parameters: tuple[Parameter, ...], source: TensorSource
) -> Iterator[tuple[Parameter, Future[Any]]]:
    """Yield each parameter with a future of its values; the next is read and hashed meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(parameters[0].load, source)
        for parameter, following in zip(parameters, (*parameters[1:], None), strict=True):
            now = coming
            if following is not None:
                coming = reader.submit(following.load, source)
            yield parameter, now


class _Meter:
    """Counts weights into a file that the waiting process reads."""

    def __init__(self, path: Path) -> None:
        self._path, self._done = path, 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._path.write_text(str(self._done), encoding="ascii")
