"""Checkpoint -> bundle: the steps of one export, on one screen.

Parts are built in the cache and linked into a temporary folder beside the result, which is renamed
when complete. A stopped export continues with the parts that are finished.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.backends.base import Backend
from export.build.estimate import estimate
from export.build.job import Job, open_job
from export.build.part_cache import PartCache, place
from export.build.parts import Part, PartRequest
from export.build.progress import Progress
from export.build.workers import build_parts
from export.checkpoint.adapters import (
    ADAPTED,
    AdapterFolder,
    merged_source,
    parse_adapter,
    write_adapted_folder,
)
from export.checkpoint.calibrated import CALIBRATED
from export.checkpoint.locate import local_checkpoint, locate_checkpoint
from export.checkpoint.source import TensorSource, check_tensors, content_sha256
from export.config import ExportConfig, check_resources, default_jobs
from export.graphs.graph import Graph
from export.host.card import write_card
from export.host.tables import describe_tables
from export.host.tokenizer import build_tokenizer_files
from export.models.architecture import architecture
from export.models.tensors import EMBED_TOKENS, TIED
from export.plan import Plan
from export.quant.methods import STORED
from export.quant.recipes import CALIBRATED_RECIPES, UNCALIBRATED_RECIPE
from export.releases import find_release, published_release, read_config
from export.releases.half_range import RECORDED, check_divisor
from export.releases.release import ReleaseFacts, load_facts
from mobile_runtime.bundle import (
    SCHEMA_VERSION,
    FileEntry,
    GraphSpec,
    Manifest,
    Prompt,
    Provenance,
    list_files,
    write_manifest,
)
from mobile_runtime.errors import InputError
from mobile_runtime.files import replace_folder, scratch_folder, this_process

if TYPE_CHECKING:  # a plan, and an export without a calibration, import nothing of it
    from export.calibration.examples import Examples

# Read-only, not allowed, a file where a folder should be, or no room for files of such a size.
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EFBIG)
_SPARE_BYTES = 200_000_000  # programs, tokenizer, file system
_POCKET = (
    "No --checkpoint given: exporting the pocket model, which reads short texts, digits, shapes "
    "and small videos. For MiniCPM-V 4.5 give --checkpoint openbmb/MiniCPM-V-4_5 or a folder."
)


@dataclass(frozen=True)
class _Origin:
    """Where the weights come from, as the user gave it."""

    name: str
    facts: ReleaseFacts
    prepared: Mapping[str, Any] | None = None  # how the weights were rotated and calibrated


def export_bundle(config: ExportConfig, backend: Backend, progress: Progress) -> Path:
    """Run the export that `config` describes; return the bundle's folder.

    With `config.plan`, only report the plan and an estimate. Raises `InputError` for everything
    that the user can correct.
    """
    check_resources(config)
    check_divisor(config.fit_half)
    backend.precisions.parts(config.quant)  # an unknown recipe ends here, before a download
    local = local_checkpoint(config.checkpoint)
    facts = _facts(config, local)
    adapters = [parse_adapter(given) for given in config.adapters]
    target = config.output / f"{facts.name}-{backend.name}-{_label(config, backend, adapters)}"
    _check_target(config, target)
    backend.check_installed()
    given = None if config.plan else _read_examples(config, backend)
    if config.checkpoint is None:
        progress.note(_POCKET)
    notes = None if config.no_cache else config.cache
    folder = locate_checkpoint(config.checkpoint, weights=not config.plan, cache=notes)
    published_form = replace(config, fit_half=None)  # what is checked, and calibrated
    job = open_job(folder, published_form, backend)
    _check_calibration(job.plan, config)
    progress.plan(job.plan)
    if config.plan:
        progress.estimate(estimate(job, default_jobs(config, job.parameters)))
        return target
    shapes = job.release.tensor_shapes(job.model)
    check_tensors(job.source, shapes, str(job.folder), job.release.title, TIED)
    merged_source(job.source, adapters)  # which fails now if one does not fit
    _check_not_finished(job, config)
    origin = _Origin(folder.resolve().name if local else Path(str(config.checkpoint)).name, facts)
    with (
        _writing(config.output),
        _cache(config, target) as cache,
        scratch_folder(target) as partial,
    ):
        _check_disk(job, config.output, cache.root)
        if adapters:
            job = replace(job, folder=write_adapted_folder(folder, adapters, cache.root / ADAPTED))
        published = job.source
        if config.rotate or job.plan.calibration is not None:
            given = given if job.plan.calibration is not None else None
            job, origin = _prepare(job, origin, published_form, given, cache, progress)
        if config.fit_half is not None:
            recipe = None if job.plan.budget is None else job.plan.recipe
            job = open_job(job.folder, config, backend, recipe)
        parts = _build(job, config, cache, progress)
        _write_bundle(job, published, origin, parts, partial)
        replace_folder(partial, target)
        cache.trim(round(config.cache_gb * 1e9))
    return target


def _label(config: ExportConfig, backend: Backend, adapters: Sequence[AdapterFolder]) -> str:
    """The recipe, what is stored otherwise, adapters, and what prepared its weights besides, for
    the bundle's name."""
    by_default = backend.precisions.examples(config.quant, None)
    recipe = config.quant.replace(":", "-")  # which file names of other systems cannot have
    recipe = "-".join([recipe, *(f"{p}-{precision}" for p, precision in config.override.items())])
    names = (adapter.folder.resolve().name for adapter in adapters)
    recipe = "-".join([recipe, *(re.sub(r"[^\w.-]+", "-", name) for name in names)])
    if config.fit_half is not None:
        recipe = f"{recipe}-half-{config.fit_half}"
    others = config.gradients, config.distill, config.calibration_tokens
    if any(others) or config.calibration not in (None, by_default):
        return f"{recipe}-calibrated"
    return f"{recipe}-rotated" if config.rotate and by_default is None else recipe


def _read_examples(config: ExportConfig, backend: Backend) -> Examples | None:
    """The examples of a calibration; None without one.

    Raises `InputError` if they, torch or the device would stop a calibration or rotation: before a
    checkpoint is downloaded.
    """
    examples = backend.precisions.examples(config.quant, config.calibration)
    if examples is None and not config.rotate:
        return None
    try:
        from export.calibration.examples import read_examples
        from export.calibration.stage import check_device
    except ImportError as error:
        raise InputError(
            f"--quant {config.quant} calibrates or rotates with torch, which is not installed; run "
            "pip install -e '.[validation]', or give "
            f"--quant {UNCALIBRATED_RECIPE} without --rotate."
        ) from error
    check_device(config.device)
    return None if examples is None else read_examples(examples)


def _check_calibration(plan: Plan, config: ExportConfig) -> None:
    """Raises `InputError` if options are for a calibration and there is nothing to calibrate."""
    given = {
        "--calibration": config.calibration is not None,
        "--calibration-tokens": config.calibration_tokens is not None,
        "--gradients": config.gradients,
        "--distill": config.distill,
    }
    asked = [flag for flag, wanted in given.items() if wanted]
    if plan.calibration is None and asked:
        raise InputError(
            f"{asked[0]} is for choosing the decoder's integers, but recipe "
            f"{plan.recipe.name} has none to choose, or is not calibrated; give --quant "
            f"{CALIBRATED_RECIPES[0]}, or --calibration with another recipe of integers."
        )


def _check_not_finished(job: Job, config: ExportConfig) -> None:
    """Raises `InputError` if weights are to be prepared that must not be changed."""
    kept = any(spec.method == STORED for spec in job.plan.specs.values())
    if (config.rotate or job.plan.calibration is not None) and kept:
        raise InputError(
            f"{job.folder} holds quantized weights, which a calibration or rotation would choose "
            f"anew; give --quant {UNCALIBRATED_RECIPE} without them."
        )


def _prepare(
    job: Job,
    origin: _Origin,
    config: ExportConfig,
    given: Examples | None,
    cache: PartCache,
    progress: Progress,
) -> tuple[Job, _Origin]:
    """Rotate and calibrate the weights: the same export, of the folder that results."""
    from export.calibration.stage import calibrate

    done = calibrate(job, config, given, cache.root / CALIBRATED, progress.block)
    prepared = open_job(done.folder, config, job.backend, done.recipe)
    return prepared, replace(origin, prepared=done.record)


def _facts(config: ExportConfig, local: Path | None) -> ReleaseFacts:
    """Facts of a local checkpoint, or of the release that is published under the given name."""
    if local is not None:
        return load_facts(local, find_release(read_config(local)))
    return published_release(str(config.checkpoint)).facts


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{output} cannot be made ({error.strerror}); give another --output."
        ) from error


def _check_target(config: ExportConfig, target: Path) -> None:
    for path in (config.output, target):
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path} is a link to nothing; remove it, or give another --output.")
    if not (above := _nearest(config.output)).is_dir():
        raise InputError(f"{above} is not a folder; give another --output.")
    if target.exists() and not (config.overwrite or config.plan):
        raise InputError(
            f"{target} exists already; remove it, give another --output, or add --overwrite."
        )


def _nearest(path: Path) -> Path:
    """The path itself or, as it is not there yet, the folder in which it is to be made."""
    return next(found for found in (path, *path.absolute().parents) if found.exists())


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Turn a full disk, a folder that cannot be written, and one that vanishes, into an
    `InputError`."""
    _make_folder(output)
    try:
        yield
    except OSError as error:
        where = error.filename or output
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk is full ({where}); make room and run the same command again: it "
                "continues with the parts that are finished."
            ) from error
        if error.errno in _REFUSED:
            raise InputError(
                f"cannot write to {where} ({error.strerror}); give another --output or --cache."
            ) from error
        if error.errno in (errno.ENOENT, errno.ESTALE):
            raise InputError(
                f"{where} was removed while the export used it; run the same command again: what "
                "is missing is built."
            ) from error
        raise


@contextmanager
def _cache(config: ExportConfig, target: Path) -> Iterator[PartCache]:
    """The cache of the user, or with `no_cache` a temporary folder that is removed."""
    if not config.no_cache:
        cache = PartCache(config.cache)
        cache.clean()
        try:
            yield cache
        finally:
            shutil.rmtree(cache.progress_folder(this_process()), ignore_errors=True)
        return
    with scratch_folder(target, "parts") as root:
        yield PartCache(root)


def _check_disk(job: Job, output: Path, cache: Path) -> None:
    """Raises `InputError` unless output and cache have room for the bundle, and the cache for a
    calibration."""
    copies = 1 if job.backend.allows_hard_links else 2
    bundle = copies * job.plan.bundle_bytes() + _SPARE_BYTES
    cache.mkdir(parents=True, exist_ok=True)
    for folder, needed in ((output, bundle), (cache, bundle + job.plan.calibrated_bytes())):
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise InputError(
                f"the export needs {needed:,} bytes, but {folder} has {free:,} free; make room or "
                "give another --output or --cache."
            )


def _build(job: Job, config: ExportConfig, cache: PartCache, progress: Progress) -> dict[str, Part]:
    sizes = job.part_sizes
    jobs = default_jobs(config, job.parameters)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    largest_first = sorted(sizes, key=lambda name: -sizes[name])  # processes end together
    requests = [
        PartRequest(
            part=part,
            checkpoint=job.folder,
            config=config,
            backend=job.backend.name,
            cache=cache.root.resolve(),
            owner=this_process(),
            threads=threads,
        )
        for part in largest_first
    ]
    progress.start(sizes, config.output)
    return build_parts(requests, jobs, config.scheduler, progress)


def _write_bundle(
    job: Job, published: TensorSource, origin: _Origin, parts: Mapping[str, Part], folder: Path
) -> None:
    known = {}  # digests of tensors that were read whole, as published
    for part in parts.values():
        place(part.entry, folder, job.backend.allows_hard_links)
        for reading in part.entry.readings if published is job.source else ():
            if (reading.begin, reading.end) == (0, job.source.tensors[reading.tensor].row_count):
                known[reading.tensor] = reading.sha256
    built = [file for part in parts.values() for file in part.entry.files]
    tokenizer, vocabulary = folder / "tokenizer", job.model.decoder.vocab_size
    prompt = build_tokenizer_files(job.folder, tokenizer, vocabulary, job.release.chat)
    graphs = [_describe(graph, job, folder) for graph in job.plan.graphs]
    source = Provenance(origin.name, content_sha256(published, known), origin.facts.license)
    manifest = _manifest(job, origin, prompt, graphs, source)
    job.backend.write_extras(
        job.plan.graphs, job.plan.specs, manifest, folder, job.release.text_type
    )
    write_card(folder / "README.md", manifest, job.backend.platforms, job.backend.card_section)
    others = list_files(folder, skip={file.path for file in built})
    write_manifest(folder, replace(manifest, files=_sorted([*built, *others])))


def _sorted(files: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
    return tuple(sorted(files, key=lambda file: file.path))


def _describe(graph: Graph, job: Job, bundle: Path) -> GraphSpec:
    path = f"{graph.name}{job.backend.suffix}"
    return graph.spec(path, job.backend.weight_bytes(bundle / path))


def _manifest(
    job: Job, origin: _Origin, prompt: Prompt, graphs: Sequence[GraphSpec], source: Provenance
) -> Manifest:
    facts = origin.facts
    recipe: dict[str, Any] = job.plan.recipe.as_json()
    if origin.prepared is not None:
        recipe["prepared"] = dict(origin.prepared)
    if job.fit_half is not None:
        recipe[RECORDED] = job.fit_half
    tools = {"minicpmv-mobile": version("minicpmv-mobile"), "numpy": np.__version__}
    embeddings = job.plan.specs[EMBED_TOKENS]
    tables = describe_tables(job.model, embeddings) if job.backend.host_tables else None
    return Manifest(
        schema_version=SCHEMA_VERSION,
        format=job.backend.name,
        model=facts.name,
        architecture=architecture(job.model),
        preprocessing=job.described.preprocessing,
        prompt=prompt,
        generation=facts.generation,
        decoding=job.plan.decoding,
        graphs=tuple(graphs),
        embed_tokens=tables.embed_tokens if tables else None,
        position_embeddings=tables.position_embeddings if tables else None,
        resampler_key_query=tables.key_query if tables else None,
        recipe=recipe,
        source=source,
        tools={**tools, **job.backend.versions()},
        files=(),
    )
