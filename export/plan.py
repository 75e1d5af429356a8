"""What an export will write: graphs cut into packages by size, and how each weight is stored.

Made from the configuration alone, before any weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from export.backends.base import Backend, Layout, Specs
from export.config import ExportConfig
from export.graphs.graph import Graph, Parameter, Role
from export.models.config import ModelConfig
from export.quant.recipe import QuantRecipe, QuantSpec
from export.quant.recipes import EMBED_TOKENS, build_recipe
from export.quant.weights import packed_size
from mobile_runtime.bundle import Decoding, Preprocessing
from mobile_runtime.errors import InputError

BuildGraph = Callable[[range, str], Graph]


@dataclass(frozen=True)
class Plan:
    """The packages in the order in which they run, and the specification of every matrix."""

    graphs: tuple[Graph, ...]
    specs: Specs
    recipe: QuantRecipe
    decoding: Decoding
    has_tables: bool

    def package_bytes(self, graph: Graph) -> int:
        """Bytes of a package's weights."""
        return sum(stored_bytes(p, self.specs.get(p.name)) for p in graph.parameters)

    def bundle_bytes(self, model: ModelConfig) -> int:
        """Bytes of all packages' weights and of the embedding table."""
        table = 0
        if self.has_tables:
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
    decoding = backend.decoding(config, model)
    recipe = recipe or build_recipe(config.quant, config.override, backend.forms)
    layout = backend.layout(model, preprocessing, decoding)
    specs = _assign(recipe, layout, model, backend)
    _check_methods(specs, backend)
    graphs = tuple(
        graph
        for role, count, build in layout
        for graph in _cut(role, count, build, specs, backend.max_package_bytes)
    )
    return Plan(graphs, specs, recipe, decoding, backend.has_tables)


def _assign(recipe: QuantRecipe, layout: Layout, model: ModelConfig, backend: Backend) -> Specs:
    decoder = model.decoder
    matrices = {EMBED_TOKENS: (decoder.vocab_size, decoder.hidden_size)}
    vectors: set[str] = set()
    for role, count, build in layout:
        for parameter in build(range(count), role).parameters:
            if parameter.is_matrix:
                matrices[parameter.name] = (parameter.shape[0], parameter.shape[1])
            else:
                vectors.add(parameter.name)
    return {**recipe.assign(matrices), **dict.fromkeys(sorted(vectors), backend.forms.dense)}


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
    if spec is not None and spec.method == "dense":
        return spec.bits // 8 * parameter.size
    if spec is None or not parameter.is_matrix:
        return 2 * parameter.size
    rows, columns = parameter.shape
    if spec.method == "block":
        return packed_size(rows * columns, spec.bits) + 4 * rows * (columns // spec.group_size)
    if spec.method == "affine":
        return rows * columns + 2 * rows
    return packed_size(rows * columns, spec.bits) + 2 * (rows // spec.group_size << spec.bits)


def count_groups(specs: Mapping[str, QuantSpec | None]) -> dict[str, int]:
    """How many matrices each form stores, for the plan that a user reads."""
    counts: dict[str, int] = {}
    for spec in specs.values():
        label = "float16" if spec is None else str(spec)
        counts[label] = counts.get(label, 0) + 1
    return counts
