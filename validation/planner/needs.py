"""What a model needs: bytes on disk and in memory, and the work of an answer.

In: a Core ML bundle, or a checkpoint that would be exported. Nothing is exported, and no weight is
read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from mobile_runtime.bundle import CACHE, MANIFEST_NAME, Decoding, GraphSpec, read_manifest
from mobile_runtime.errors import InputError

_ITEM_SIZES = {"float16": 2, "float32": 4, "int8": 1, "int32": 4}
RESERVE = 1 << 29  # bytes that the Swift package leaves to the app


@dataclass(frozen=True)
class Needs:
    """Bytes of a model's parts, and sizes that its speed rests on.

    `tables` are mapped from files, so that they take no memory of their own; `files` is everything
    that is downloaded. `view_positions` are the patches of a view, `view_tokens` what the decoder
    gets of it.
    """

    model: str
    recipe: str
    decoder: int
    head: int
    vision: int
    tables: int
    files: int
    largest_package: int
    cache_per_token: int
    context: int
    exported_context: int
    prefill_length: int
    decoder_parameters: int
    vision_parameters: int
    view_positions: int
    view_tokens: int
    decoder_packages: int
    head_packages: int

    @property
    def cache(self) -> int:
        """Bytes of a conversation's key/value cache, all of it allocated."""
        return self.cache_per_token * self.context

    @property
    def packages(self) -> int:
        """Bytes of all packages."""
        return self.decoder + self.head + self.vision

    @property
    def disk(self) -> int:
        """Bytes after compilation: the files, and the system's compiled copy of the packages."""
        return self.files + self.packages

    @property
    def text(self) -> int:
        """Bytes of memory while text is answered with the vision side closed."""
        return self.decoder + self.head + self.cache + RESERVE

    @property
    def steady(self) -> int:
        """Bytes of memory with everything open."""
        return self.text + self.vision

    @property
    def load_peak(self) -> int:
        """Bytes of memory while the last package is opened: its file is read beside the copy."""
        return self.steady + self.largest_package

    @property
    def read_per_token(self) -> int:
        """Bytes that a step of decoding reads."""
        return self.decoder + self.head + self.cache

    def prompt_work(self, views: int, text_tokens: int) -> float:
        """Operations until the first token: two for each parameter and position, of the tower for
        each view, and of the decoder in whole blocks."""
        positions = self._blocks(views, text_tokens) * self.prefill_length
        seen = views * self.view_positions * self.vision_parameters
        return 2.0 * (seen + positions * self.decoder_parameters)

    def _blocks(self, views: int, text_tokens: int) -> int:
        return -(-(views * self.view_tokens + text_tokens) // self.prefill_length)

    @property
    def calls_per_token(self) -> int:
        """Calls of packages in a step of decoding."""
        return self.decoder_packages + self.head_packages

    def prompt_calls(self, views: int, text_tokens: int) -> int:
        """Calls of packages until the first token: tower and resampler, decoder, head."""
        return (
            2 * views
            + self._blocks(views, text_tokens) * self.decoder_packages
            + self.head_packages
        )


def needs_of(given: str | None, recipe: str, context: int | None) -> Needs:
    """Those of a bundle, or of a checkpoint exported for Core ML by `recipe`. `given` is a folder
    or a hub id, None for the pocket model. Raises `InputError` if it is neither, for a bundle of
    another target, and for a context that is no length."""
    if context is not None and context < 1:
        raise InputError(f"--context is {context}; give 1 or more.")
    if given is not None and (Path(given) / MANIFEST_NAME).is_file():
        return _with_context(_of_bundle(Path(given)), context)
    return _of_checkpoint(given, recipe, context)


def _with_context(needs: Needs, context: int | None) -> Needs:
    return needs if context is None else replace(needs, context=context)


def _of_bundle(bundle: Path) -> Needs:
    manifest = read_manifest(bundle)
    if manifest.format != "coreml":
        raise InputError(
            f"{bundle} is a bundle for {manifest.format}; plans are made for Core ML: give a "
            "Core ML bundle, or the checkpoint."
        )
    sizes = {entry.path: entry.size for entry in manifest.files}
    packages = tuple(f"{graph.path}/" for graph in manifest.graphs)
    tables = sum(
        size
        for path, size in sizes.items()
        if path.endswith(".bin") and not path.startswith(packages)
    )
    return _of_graphs(
        (manifest.model, str(manifest.recipe["name"])),
        manifest.graphs,
        manifest.decoding,
        tables,
        sum(sizes.values()),
        manifest.architecture.num_queries,
    )


def _of_checkpoint(given: str | None, recipe: str, context: int | None) -> Needs:
    from export.backends import BACKENDS
    from export.build.job import open_job
    from export.checkpoint.locate import locate_checkpoint
    from export.config import ExportConfig

    config = ExportConfig(checkpoint=given, quant=recipe, plan=True)
    if context is not None:
        config = replace(config, context_length=context)
    backend = BACKENDS["coreml"]
    backend.precisions.parts(recipe)  # an unknown recipe ends here
    job = open_job(locate_checkpoint(given, weights=False), config, backend)
    plan = job.plan
    graphs = [graph.spec(graph.name, plan.package_bytes(graph)) for graph in plan.graphs]
    tables = sum(plan.stored_bytes(table) for table in plan.tables)
    return _of_graphs(
        (job.described.release.title, recipe),
        graphs,
        plan.decoding,
        tables,
        plan.bundle_bytes(),
        job.model.num_queries,
    )


def _of_graphs(
    names: tuple[str, str],
    graphs: Sequence[GraphSpec],
    decoding: Decoding,
    tables: int,
    files: int,
    view_tokens: int,
) -> Needs:
    def weights(*roles: str) -> int:
        return sum(graph.weight_bytes for graph in graphs if graph.role in roles)

    def parameters(*roles: str) -> int:
        return sum(graph.parameters for graph in graphs if graph.role in roles)

    assert decoding.prefill_length is not None
    return Needs(
        *names,
        decoder=weights("decoder"),
        head=weights("lm_head"),
        vision=weights("vision_encoder", "resampler"),
        tables=tables,
        files=files,
        largest_package=max(graph.weight_bytes for graph in graphs),
        cache_per_token=_cache_bytes(graphs) // decoding.context_length,
        context=decoding.context_length,
        exported_context=decoding.context_length,
        prefill_length=decoding.prefill_length,
        decoder_parameters=parameters("decoder"),
        vision_parameters=parameters("vision_encoder"),
        view_positions=_positions(graphs),
        view_tokens=view_tokens,
        decoder_packages=sum(graph.role == "decoder" for graph in graphs),
        head_packages=sum(graph.role == "lm_head" for graph in graphs),
    )


def _cache_bytes(graphs: Iterable[GraphSpec]) -> int:
    """Of a state, or of an input if the host keeps the cache."""
    tensors = (
        tensor
        for graph in graphs
        for tensor in (graph.states or graph.functions[0].inputs)
        if tensor.name == CACHE
    )
    return sum(prod(tensor.shape) * _ITEM_SIZES[tensor.dtype] for tensor in tensors)


def _positions(graphs: Iterable[GraphSpec]) -> int:
    """Patches of a view, with padding: the last axis of the tower's first input."""
    towers = [graph for graph in graphs if graph.role == "vision_encoder"]
    return towers[0].functions[0].inputs[0].shape[-1] if towers else 0
