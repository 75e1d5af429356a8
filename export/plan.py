"""Plan of an export: graphs cut into packages by size, and how each weight is stored.

It is made from the configuration only, before any weight is read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from export.backends.base import Backend, Specs
from export.config import ExportConfig
from export.graphs.graph import Graph, Parameter, Section
from export.host.tables import embedding_table, position_table
from export.models.tensors import EMBED_TOKENS, LM_HEAD
from export.quant.methods import FEEDBACK, STORED, check_method
from export.quant.recipe import FLOAT16, QuantRecipe, QuantSpec
from export.quant.recipes import HEAD, Budget, Precisions, budget_of, build_recipe
from export.releases.release import ModelDescription, Release
from mobile_runtime.bundle import Decoding
from mobile_runtime.errors import InputError

# Tokens of texts: more keep more of a model, but take hours on the processor if it is wide.
_TEXT_TOKENS, _TEXT_TOKENS_WIDE = 65_536, 8_192
_WIDE = 1_000_000_000  # parameters
DISTILLED_POSITIONS = 1024  # about so many in each step of a distillation
_LOOKED_UP = ("rows", "floats")  # forms of embeddings, whose rows are read one at a time


@dataclass(frozen=True)
class Calibration:
    """What a calibration reads and does: at most `text_tokens` tokens of texts, with or without
    `gradients`, then `distill` steps of a distillation. If it `corrects_drift`, each matrix makes
    up for errors of those before it, which takes as much time again; so does the head, which is
    finished last."""

    text_tokens: int
    gradients: bool
    corrects_drift: bool
    distill: int


@dataclass(frozen=True)
class Plan:
    """The packages in the order in which they run, the host's tables, and the specification of
    every weight.

    `calibration` is None if no weight is to be calibrated. `options` are ways to store each matrix
    of the blocks that is, of which it chooses so that all together take at most `budget` bytes.
    """

    graphs: tuple[Graph, ...]
    tables: tuple[Parameter, ...]
    specs: Specs
    recipe: QuantRecipe
    decoding: Decoding
    calibration: Calibration | None = None
    options: Mapping[str, Sequence[QuantSpec]] = field(default_factory=dict)
    budget: int | None = None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every weight of the bundle."""
        return (*(p for graph in self.graphs for p in graph.parameters), *self.tables)

    def package_bytes(self, graph: Graph) -> int:
        """Bytes of a package's weights."""
        return sum(self.stored_bytes(parameter) for parameter in graph.parameters)

    def bundle_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.stored_bytes(parameter) for parameter in self.parameters)

    @property
    def calibrated(self) -> tuple[Parameter, ...]:
        """The matrices that a calibration is to finish."""
        return tuple(p for p in self.parameters if self.specs[p.name].method == FEEDBACK)

    @property
    def calibrated_head(self) -> tuple[Parameter, ...]:
        """Those of the head."""
        return tuple(p for p in self.calibrated if p.inverse and p.inverse.tensor == LM_HEAD)

    @property
    def calibrated_blocks(self) -> tuple[Parameter, ...]:
        """Those of the decoder's blocks."""
        head = self.calibrated_head
        return tuple(p for p in self.calibrated if p not in head)

    def calibrated_bytes(self) -> int:
        """Room for those matrices besides the bundle: a byte a weight, since integers of blocks are
        kept unpacked, or what is stored if that is more; twice if they are distilled."""
        once = sum(max(p.size, self.stored_bytes(p)) for p in self.calibrated)
        return 2 * once if self.calibration is not None and self.calibration.distill else once

    def stored_bytes(self, parameter: Parameter) -> int:
        """Bytes of a weight."""
        return self.specs[parameter.name].stored_bytes(parameter.shape)


def build_plan(
    config: ExportConfig,
    described: ModelDescription,
    backend: Backend,
    *,
    recipe: QuantRecipe | None = None,
    finished: Mapping[str, QuantSpec] | None = None,
) -> Plan:
    """Check the flags against model and backend, assign the recipe, cut the graphs.

    `recipe` replaces the one that `config` names. `finished` holds the specifications of tensors
    that the source has in a storage form already; they keep it if the backend supports it. Raises
    `InputError` if flags, model and backend do not fit together.
    """
    release, model = described.release, described.config
    decoding = backend.decoding(config, model)
    examples = backend.precisions.examples(config.quant, config.calibration)
    calibration = None if examples is None else _calibration(config, described)
    parts = () if calibration is None else _calibrated_parts(release, calibration, finished)
    recipe = recipe or build_recipe(
        config.quant, config.override, backend.precisions, release.parts, release.kept, parts
    )
    sections = backend.layout(release.bodies, model, described.preprocessing, decoding)
    embeddings, positions = embedding_table(model), position_table(model)
    parameters = [p for section in sections for p in _whole(section).parameters]
    specs = _assign(recipe, [embeddings, *parameters], backend)
    specs |= _kept_forms([embeddings, *parameters], finished or {}, backend)
    tables: tuple[Parameter, ...] = ()
    if backend.host_tables:
        tables = (embeddings, positions)
        specs[positions.name] = FLOAT16
    for name, spec in specs.items():
        _check_spec(name, spec, backend)
    graphs = tuple(
        graph for section in sections for graph in _cut(section, specs, backend.max_package_bytes)
    )
    plan = Plan(graphs, tables, specs, recipe, decoding)
    if not plan.calibrated or calibration is None:
        return plan
    plan = replace(plan, calibration=calibration)
    budget = budget_of(config.quant)
    return plan if budget is None else _with_budget(plan, budget, backend.precisions)


def is_wide(described: ModelDescription) -> bool:
    """Whether a model has so many parameters that a calibration computes in bfloat16."""
    shapes = described.release.tensor_shapes(described.config).values()
    return sum(math.prod(shape) for shape in shapes) >= _WIDE


def _calibration(config: ExportConfig, described: ModelDescription) -> Calibration:
    takes_hours = is_wide(described) and config.device.startswith("cpu")
    tokens = _TEXT_TOKENS_WIDE if takes_hours else _TEXT_TOKENS
    if config.calibration_tokens is not None:
        tokens = config.calibration_tokens
    # A budget is spent by gradients; once they are there, weights are chosen by them too.
    gradients = config.gradients or budget_of(config.quant) is not None
    return Calibration(tokens, gradients, gradients or not takes_hours, config.distill)


def _calibrated_parts(
    release: Release, calibration: Calibration, finished: Mapping[str, QuantSpec] | None
) -> Collection[str]:
    """The head is finished by where the checkpoint's model and the quantized one end: not without
    time for the former, or over blocks that the source holds quantized."""
    # A calibration that has ended tells by what it finished; any other source holds all or nothing.
    is_due = LM_HEAD in finished if finished else True
    if calibration.corrects_drift and is_due:
        return release.calibrated
    return [part for part in release.calibrated if part != HEAD]


def _with_budget(plan: Plan, budget: Budget, precisions: Precisions) -> Plan:
    """Raises `InputError` for a budget that does not hold the smallest of all options."""
    matrices = plan.calibrated_blocks
    options = {p.name: precisions.options(p.shape) for p in matrices}
    sizes = {p.name: [spec.stored_bytes(p.shape) for spec in options[p.name]] for p in matrices}
    least, weights = sum(map(min, sizes.values())), sum(p.size for p in matrices)
    others = plan.bundle_bytes() - sum(plan.stored_bytes(p) for p in matrices)
    in_bits = budget.unit == "bpw"
    given = budget.amount * weights / 8 if in_bits else budget.amount * 1e9 - others
    if given < least:
        needed = 8 * least / weights if in_bits else (least + others) / 1e9
        raise InputError(
            f"{budget.amount:g}{budget.unit} is too little: this target needs "
            f"{needed:.3f}{budget.unit} at least; give more."
        )
    return replace(plan, options=options, budget=int(given))


def _whole(section: Section) -> Graph:
    return section.build(range(section.count), section.role)


def _assign(
    recipe: QuantRecipe, parameters: Sequence[Parameter], backend: Backend
) -> dict[str, QuantSpec]:
    """Return the recipe's choice for every matrix; vectors are floats."""
    matrices = {p.name: p.shape for p in parameters if p.is_matrix}
    vectors = sorted(p.name for p in parameters if not p.is_matrix)
    return {**recipe.assign(matrices), **dict.fromkeys(vectors, backend.precisions.floats)}


def _kept_forms(
    parameters: Sequence[Parameter], finished: Mapping[str, QuantSpec], backend: Backend
) -> dict[str, QuantSpec]:
    """Return specifications of the weights that are written as the source stores them: in a form
    that the target supports, in groups that fit the parameter."""
    return {
        parameter.name: replace(spec, method=STORED)
        for parameter in parameters
        if parameter.inverse is not None
        and parameter.inverse.as_stored
        and (spec := finished.get(parameter.label)) is not None
        and spec.form in backend.forms
        and (parameter.label != EMBED_TOKENS or spec.form in _LOOKED_UP)
        and spec.fitted(parameter.shape) == spec
    }


def _check_spec(name: str, spec: QuantSpec, backend: Backend) -> None:
    if spec.form not in backend.forms:
        raise InputError(
            f"the {backend.name} backend cannot store {name} as {spec.form}; "
            f"it takes {', '.join(sorted(backend.forms))}: choose another recipe."
        )
    check_method(name, spec)


def _cut(section: Section, specs: Specs, limit: int) -> list[Graph]:
    """Cut a section into as few packages as the limit allows, as equal in size as possible."""
    role, build = section.role, section.build
    sizes = [
        sum(specs[p.name].stored_bytes(p.shape) for p in build(range(n, n + 1), role).parameters)
        for n in range(section.count)
    ]
    if max(sizes) > limit:
        raise InputError(
            f"one block of the {role} takes {max(sizes):,} bytes, but a package may hold only "
            f"{limit:,}; choose a recipe with fewer bits."
        )
    ranges = split_blocks(sizes, limit)
    if len(ranges) == 1:
        return [build(ranges[0], role)]
    return [
        build(blocks, f"{role}_{n:02d}of{len(ranges):02d}") for n, blocks in enumerate(ranges, 1)
    ]


def split_blocks(sizes: Sequence[int], limit: int) -> list[range]:
    """Return the fewest consecutive ranges of at most `limit` bytes, the largest as small as
    possible."""
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


def count_forms(specs: Specs) -> dict[str, int]:
    """Count the weights per specification, for the plan that a user reads."""
    counts: dict[str, int] = {}
    for spec in specs.values():
        counts[str(spec)] = counts.get(str(spec), 0) + 1
    return counts
