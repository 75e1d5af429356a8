"""Examples -> tensors that are computed together: their views, what each group of views holds, and
the prompts with their answers.

Everything that depends on one example is worked out here, with numbers of places in longer tensors,
so that the losses are a few operations on all of them, on whichever device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.pocket.architecture import CONFIG
from examples.pocket.counting import Counts, CountTargets, join_counts
from examples.pocket.curriculum import Weights
from examples.pocket.example import BLANK, Example, TrainingGroup, TrainingView
from export.releases import parse_config
from mobile_runtime.model.positions import position_ids

_BUCKETS = parse_config(CONFIG).vision.position_buckets
GRID_SIDE = 64  # of the table of resampler positions: patches in a row or column of a view, at most
PROCESSOR_CHUNK = 12  # views, groups or prompts that a processor computes together
Kept = NDArray[np.intp]  # numbers of a view's patches that are computed
_Things = TypeVar("_Things")


@dataclass(frozen=True)
class ViewChunk:
    """Views of like length: patches (V, L, 588) of bytes, position ids (V, L), (V, L) bool if some
    are padded, and (V,) whether the targets of a view stay true in other colours."""

    patches: Tensor
    ids: Tensor
    valid: Tensor | None
    colourless: NDArray[np.bool_]


@dataclass(frozen=True)
class Views:
    """Views with P patches in all, and the targets of the patches. `order` (P,) says where among
    the padded patches of all chunks the patches of the first view lie, of the second, and so on."""

    chunks: tuple[ViewChunk, ...]
    order: Tensor
    characters: Tensor  # (P, HALVES)
    covering: Tensor  # (P, QUARTERS)
    marks: Tensor  # (P, 2)
    counts: CountTargets  # of P patches


@dataclass(frozen=True)
class GroupChunk:
    """Groups of like length: numbers (G, N) of their patches among those of all views, of these'
    rows in the tables of positions and times, and (G, N) bool if some are padded."""

    patches: Tensor
    positions: Tensor
    times: Tensor
    valid: Tensor | None


@dataclass(frozen=True)
class Groups:
    """Groups of views, and the targets of their queries: texts joined, of the groups `told`;
    counts, of those `counted`; places (G, queries, 2)."""

    chunks: tuple[GroupChunk, ...]
    order: Tensor  # (G,): where among the groups of all chunks each lies
    times: NDArray[np.int64]  # which there are, in tenths of a second
    told: Tensor
    text: Tensor
    lengths: tuple[int, ...]  # of the texts
    counted: Tensor
    counts: CountTargets
    places: Tensor


@dataclass(frozen=True)
class PromptChunk:
    """Prompts with answers of like length: ids (B, T) without the last; the groups shown, and
    numbers among the B · T places of their embeddings, of the token after each, and of those whose
    next is an answer's; what it is, and whose."""

    ids: Tensor
    groups: Tensor
    embeddings: Tensor  # (groups · queries,)
    ends: Tensor  # (groups,)
    asked: Tensor  # (answers' tokens,)
    answers: Tensor
    askers: Tensor


@dataclass(frozen=True)
class Prompts:
    """Prompts with answers, and what the decoder should have counted where a picture ends."""

    chunks: tuple[PromptChunk, ...]
    order: Tensor  # (G,): where among the groups of all chunks each lies
    counted: Tensor
    totals: CountTargets


@dataclass(frozen=True)
class Batch:
    """The input of one training step; groups and prompts only if a loss needs them."""

    views: Views
    groups: Groups | None
    prompts: Prompts | None
    size: int  # examples


def to_device(things: _Things, device: torch.device) -> _Things:
    """A copy of a dataclass or tuple with its tensors on `device`."""
    if isinstance(things, Tensor):
        return things.to(device, non_blocking=True)  # type: ignore[return-value]
    if isinstance(things, tuple):
        return tuple(to_device(thing, device) for thing in things)  # type: ignore[return-value]
    if is_dataclass(things) and not isinstance(things, type):
        values = {f.name: to_device(getattr(things, f.name), device) for f in fields(things)}
        return replace(things, **values)
    return things


def make_batch(
    examples: Sequence[Example],
    weights: Weights,
    thinning: float,
    rng: np.random.Generator,
    most: int,
) -> Batch:
    """Return what the losses with `weights` need of `examples`, without the share `thinning` of the
    empty patches, with at most `most` things per chunk."""
    views, kept = join_views(examples, thinning, rng, most)
    groups = None
    if weights.query or weights.answer:
        groups = join_groups(examples, kept, most)
    prompts = join_prompts(examples, most) if weights.answer else None
    return Batch(views, groups, prompts, len(examples))


def join_views(
    examples: Sequence[Example], thinning: float, rng: np.random.Generator, most: int
) -> tuple[Views, list[Kept]]:
    """The views of all examples, in order, without the share `thinning` of their empty patches; and
    which patches of each are left."""
    views = [view for group in _groups_of(examples) for view in group.views]
    colourless = np.array([not shows for e in examples for shows in _shows_shapes(e)])
    kept = [_thin(view, thinning, rng) for view in views]
    chunks, joined = like_length([len(numbers) for numbers in kept], most), []
    for chunk in chunks:
        if thinning:  # no padding where patches are left out anyway
            shortest = min(len(kept[n]) for n in chunk)
            for n in chunk:
                kept[n] = _cut(views[n], kept[n], shortest, rng)
        patches = _pad([views[n].patches[kept[n]] for n in chunk])
        ids = _pad([_grid_ids(*views[n].grid)[kept[n]] for n in chunk])
        valid = _valid([len(kept[n]) for n in chunk])
        joined.append(ViewChunk(patches, ids, valid, colourless[chunk]))
    pairs = list(zip(views, kept, strict=True))
    targets = Views(
        tuple(joined),
        _order_within(chunks, [len(numbers) for numbers in kept]),
        _joined([view.characters[numbers] for view, numbers in pairs]),
        _joined([view.covering[numbers] for view, numbers in pairs]),
        _joined([view.marks[numbers] for view, numbers in pairs]),
        join_counts([Counts(v.counts.cells[numbers], v.counts.shapes) for v, numbers in pairs]),
    )
    return targets, kept


def join_groups(examples: Sequence[Example], kept: Sequence[Kept], most: int) -> Groups:
    """The groups of all examples, in order, of whose views the patches `kept` are computed."""
    groups = _groups_of(examples)
    first = list(accumulate((len(numbers) for numbers in kept), initial=0))
    times = sorted({view.time for group in groups for view in group.views})
    rows: list[NDArray[np.int64]] = []  # (patches, 3) of each group
    number = 0
    for group in groups:
        parts = []
        for view in group.views:
            numbers = np.arange(first[number], first[number + 1])
            position = _grid_positions(*view.grid)[kept[number]]
            time = np.full(len(numbers), times.index(view.time))
            parts.append(np.stack([numbers, position, time], 1))
            number += 1
        rows.append(np.concatenate(parts))
    chunks = like_length([len(row) for row in rows], most)
    joined = []
    for chunk in chunks:
        at, positions, when = torch.unbind(_pad([rows[n] for n in chunk]), -1)
        joined.append(GroupChunk(at, positions, when, _valid([len(rows[n]) for n in chunk])))
    texts = {n: group.text for n, group in enumerate(groups) if group.text is not None}
    counted = _counts_of(groups)
    return Groups(
        tuple(joined),
        _inverse(chunks),
        np.array(times),
        torch.tensor(list(texts), dtype=torch.long),
        _joined(list(texts.values()) or [np.empty(0, np.int64)]),
        tuple(len(text) for text in texts.values()),
        torch.tensor(list(counted), dtype=torch.long),
        join_counts(list(counted.values())),
        torch.from_numpy(np.stack([group.places for group in groups])),
    )


def join_prompts(examples: Sequence[Example], most: int) -> Prompts:
    """The prompts of `examples` with their answers."""
    first = list(accumulate((len(example.groups) for example in examples), initial=0))
    chunks = like_length([len(example.input_ids) for example in examples], most)
    joined = tuple(_prompt_chunk([examples[n] for n in chunk], first, chunk) for chunk in chunks)
    counted = _counts_of(_groups_of(examples))
    wholes = [each.shapes.sum(0, keepdims=True) for each in counted.values()]
    totals = [Counts(np.zeros(1, np.int64), whole) for whole in wholes]
    shown = torch.cat([chunk.groups for chunk in joined])
    return Prompts(
        joined,
        torch.argsort(shown),
        torch.tensor(list(counted), dtype=torch.long),
        join_counts(totals),
    )


def _prompt_chunk(
    examples: Sequence[Example], first: Sequence[int], numbers: Sequence[int]
) -> PromptChunk:
    ids = _pad([example.input_ids for example in examples])
    answers = _pad([example.answers for example in examples])[:, 1:]
    inputs = ids[:, :-1]
    length = inputs.shape[1]
    bounds = np.array(
        [
            (row * length + begin, row * length + end)
            for row, e in enumerate(examples)
            for begin, end in e.image_bound.tolist()
        ]
    )
    groups = [np.arange(first[n], first[n + 1]) for n in numbers]
    askers, asked = torch.nonzero(answers, as_tuple=True)
    return PromptChunk(
        inputs,
        _joined(groups),
        _joined([np.arange(begin, end) for begin, end in bounds]),
        torch.from_numpy(bounds[:, 1].copy()),
        askers * length + asked,
        ids[:, 1:][answers],
        askers,
    )


def like_length(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of things by length, in chunks of at most `most` in which none is twice as long as
    another."""
    chunks: list[list[int]] = []
    for n in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not chunks or len(chunks[-1]) == most or lengths[n] >= 2 * lengths[chunks[-1][0]]:
            chunks.append([])
        chunks[-1].append(n)
    return chunks


def _groups_of(examples: Sequence[Example]) -> list[TrainingGroup]:
    return [group for example in examples for group in example.groups]


def _counts_of(groups: Sequence[TrainingGroup]) -> dict[int, Counts]:
    """Counts of the groups that are judged by them, by number of the group."""
    return {n: group.counts for n, group in enumerate(groups) if group.counts is not None}


def has_shapes(example: Example) -> bool:
    """Whether a question may ask for a colour."""
    views = (view for group in example.groups for view in group.views)
    return any(bool((view.marks != BLANK).any()) for view in views)


def _shows_shapes(example: Example) -> list[bool]:
    return [has_shapes(example)] * sum(len(group.views) for group in example.groups)


def _thin(view: TrainingView, thinning: float, rng: np.random.Generator) -> Kept:
    """Numbers of the patches that are computed: all with content, the others by chance."""
    if not thinning:
        return np.arange(len(view.content))
    chosen = view.content | (rng.random(len(view.content)) >= thinning)
    chosen[int(rng.integers(len(chosen)))] = True
    return np.flatnonzero(chosen)


def _cut(view: TrainingView, numbers: Kept, length: int, rng: np.random.Generator) -> Kept:
    """`length` of the kept patches: empty ones go first."""
    order = rng.random(len(numbers)) + view.content[numbers]
    return np.sort(numbers[np.argsort(-order)[:length]])


@lru_cache(maxsize=1024)
def _grid_ids(rows: int, columns: int) -> NDArray[np.int64]:
    return position_ids(rows, columns, _BUCKETS).astype(np.int64)


@lru_cache(maxsize=1024)
def _grid_positions(rows: int, columns: int) -> NDArray[np.int64]:
    """Rows of a grid's patches in a table of GRID_SIDE × GRID_SIDE positions."""
    assert max(rows, columns) <= GRID_SIDE
    return (np.arange(rows)[:, None] * GRID_SIDE + np.arange(columns)).reshape(-1)


def _pad(rows: Sequence[NDArray[np.generic]]) -> Tensor:
    """One tensor of `rows`, padded with zeros to the longest."""
    shape = (len(rows), max(len(row) for row in rows), *rows[0].shape[1:])
    padded = np.zeros(shape, rows[0].dtype)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(padded)


def _valid(lengths: Sequence[int]) -> Tensor | None:
    """None if all have the same length: attention without a mask is twice as fast."""
    if min(lengths) == max(lengths):
        return None
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def _joined(parts: Sequence[NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def _inverse(chunks: Sequence[Sequence[int]]) -> Tensor:
    return torch.from_numpy(np.argsort(np.concatenate(chunks)))


def _order_within(chunks: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
    """Places of the parts of each thing, in order, among the padded parts of all chunks."""
    begins, begin = [0] * len(lengths), 0
    for chunk in chunks:
        longest = max(lengths[n] for n in chunk)
        for n in chunk:
            begins[n] = begin
            begin += longest
    return _joined([np.arange(b, b + length) for b, length in zip(begins, lengths, strict=True)])
