"""What an export will write: graphs cut into packages by size, and how each weight is stored.

Made from the configuration alone, before any weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from export.backends.base import Backend, Specs
from export.config import ExportConfig, check_decoding
from export.graphs.decoder import decoder_graph
from export.graphs.graph import Graph, Parameter, Role
from export.graphs.lm_head import MAX_DIMENSION, lm_head_graph, lm_head_slices
from export.graphs.resampler import resampler_graph
from export.graphs.vision_encoder import vision_encoder_graph
from export.models.config import ModelConfig
from export.models.resampler_constants import MAX_FRAMES
from export.quant.recipe import QuantRecipe, QuantSpec
from export.quant.recipes import EMBED_TOKENS, build_recipe
from export.weights import packed_size
from mobile_runtime.bundle import Decoding, InputError, Preprocessing

BuildGraph = Callable[[range, str], Graph]


@dataclass(frozen=True)
class Plan:
    """The packages in the order in which they run, and the specification of every matrix."""

    graphs: tuple[Graph, ...]
    specs: Specs
    recipe: QuantRecipe
    decoding: Decoding

    def package_bytes(self, graph: Graph) -> int:
        """Bytes of a package's weights."""
        return sum(stored_bytes(p, self.specs.get(p.name)) for p in graph.parameters)

    def bundle_bytes(self, model: ModelConfig) -> int:
        """Bytes of all packages' weights and of the embedding table."""
        table = model.decoder.vocab_size * model.decoder.hidden_size
        table *= 2 if self.embed_tokens is None else 1
        return table + sum(self.package_bytes(graph) for graph in self.graphs)

    @property
    def embed_tokens(self) -> QuantSpec | None:
        """How the embedding table is stored."""
        return self.specs[EMBED_TOKENS]


def build_plan(
    config: ExportConfig,
    model: ModelConfig,
    preprocessing: Preprocessing,
    backend: Backend,
    recipe: QuantRecipe | None = None,
) -> Plan:
    """Check the flags against model and backend, assign the recipe, cut the graphs.

    A given `recipe` takes the place of the one that `config` names.
    """
    decoding = check_decoding(config, model)
    _check_views(preprocessing)
    recipe = recipe or build_recipe(config.quant, config.override)
    length = preprocessing.max_patches
    builders: list[tuple[Role, int, BuildGraph]] = [
        (
            "vision_encoder",
            model.vision.num_layers,
            lambda blocks, name: vision_encoder_graph(model.vision, length, blocks, name),
        ),
        ("resampler", 1, lambda _, name: resampler_graph(model, length, name)),
        (
            "decoder",
            model.decoder.num_layers,
            lambda blocks, name: decoder_graph(model.decoder, decoding, blocks, name),
        ),
        (
            "lm_head",
            lm_head_slices(model.decoder.vocab_size)[0],
            lambda blocks, name: lm_head_graph(model.decoder, blocks, name),
        ),
    ]
    specs = _assign(recipe, builders, model)
    _check_methods(specs, backend)
    graphs = tuple(
        graph
        for role, count, build in builders
        for graph in _cut(role, count, build, specs, backend.max_package_bytes)
    )
    return Plan(graphs, specs, recipe, decoding)


def _check_views(preprocessing: Preprocessing) -> None:
    length = MAX_FRAMES * preprocessing.max_patches
    if length > MAX_DIMENSION:
        raise InputError(
            f"scale_resolution {preprocessing.scale_resolution} makes views of up to "
            f"{preprocessing.max_patches} patches, {length} in a group of {MAX_FRAMES} frames; the "
            f"Neural Engine takes {MAX_DIMENSION}: use a smaller scale_resolution."
        )


def _assign(
    recipe: QuantRecipe, builders: Sequence[tuple[Role, int, BuildGraph]], model: ModelConfig
) -> Specs:
    matrices = {EMBED_TOKENS: model.decoder.vocab_size}
    for role, count, build in builders:
        for parameter in build(range(count), role).parameters:
            if parameter.is_matrix:
                matrices[parameter.name] = parameter.shape[0]
    return recipe.assign(matrices)


def _check_methods(specs: Specs, backend: Backend) -> None:
    for name, spec in specs.items():
        if name != EMBED_TOKENS and spec is not None and spec.method not in backend.methods:
            raise InputError(
                f"the {backend.name} backend cannot store {name} by {spec.method}; "
                f"it takes {', '.join(sorted(backend.methods))}: choose another recipe."
            )


def _cut(role: Role, count: int, build: BuildGraph, specs: Specs, limit: int) -> list[Graph]:
    """As few packages as the size limit allows, as equal as possible."""
    sizes = [
        sum(stored_bytes(p, specs.get(p.name)) for p in build(range(n, n + 1), role).parameters)
        for n in range(count)
    ]
    if max(sizes) > limit:
        raise InputError(
            f"one block of the {role} takes {max(sizes):,} bytes, a package may hold {limit:,}; "
            "choose a recipe with fewer bits."
        )
    ranges = split_blocks(sizes, limit)
    if len(ranges) == 1:
        return [build(ranges[0], role)]
    return [
        build(blocks, f"{role}_{n:02d}of{len(ranges):02d}") for n, blocks in enumerate(ranges, 1)
    ]


def split_blocks(sizes: Sequence[int], limit: int) -> list[range]:
    """Consecutive ranges of at most `limit` bytes: the fewest, then the smallest largest one."""
    fewest = len(_fill(sizes, limit))
    totals = sorted({b - a for a in accumulate(sizes, initial=0) for b in accumulate(sizes)})
    for cap in totals:
        if cap >= max(sizes) and len(ranges := _fill(sizes, cap)) == fewest:
            return ranges
    raise AssertionError("the limit itself is one of the candidates")


def _fill(sizes: Sequence[int], cap: int) -> list[range]:
    ranges, begin, filled = [], 0, 0
    for n, size in enumerate(sizes):
        if filled + size > cap and n > begin:
            ranges.append(range(begin, n))
            begin, filled = n, 0
        filled += size
    return [*ranges, range(begin, len(sizes))]


def stored_bytes(parameter: Parameter, spec: QuantSpec | None) -> int:
    """Bytes of one parameter on disk, without the few for alignment."""
    if spec is None or not parameter.is_matrix:
        return 2 * parameter.size
    rows, columns = parameter.shape
    if spec.method == "affine":
        return rows * columns + 2 * rows
    return packed_size(rows * columns, spec.bits) + 2 * (rows // spec.group_size << spec.bits)


def count_groups(specs: Mapping[str, QuantSpec | None]) -> dict[str, int]:
    """How many matrices each form stores, for the plan that a user reads."""
    counts: dict[str, int] = {}
    for spec in specs.values():
        label = "float16" if spec is None else f"{spec.method} {spec.bits}-bit g{spec.group_size}"
        counts[label] = counts.get(label, 0) + 1
    return counts
