"""What training minimises: the answer's cross-entropy, and what the embeddings should tell.

Small heads that exist in training alone read characters off patches and queries. They give every
patch a target of its own, which the answer alone would reach only through the whole model.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from examples.pocket.counting import KINDS, Counts, counting_loss
from examples.pocket.example import (
    BLANK,
    CHARACTER_CLASSES,
    HALVES,
    IGNORE,
    MARK_CLASSES,
    PLACES,
    QUARTERS,
    SLOTS,
    Example,
    TrainingGroup,
    TrainingView,
)
from examples.pocket.forward import encode_views, resample, run_decoder
from export.models.minicpmv import MiniCPMV
from mobile_runtime.positions import position_ids, sincos_2d, sincos_time

_CHUNK = 12  # views, groups or prompts computed together, of like length
_SHAPE_WEIGHT = 0.5  # of the losses on shapes, next to those on characters
_EMPTY_PATCH = 0.05  # weight of patches that hold nothing
TOTALS_WEIGHT = 0.1  # of the loss on what the decoder has counted, next to that on answers
_FEW = -4.0  # softplus of it is a query's part of a count at first; of twice it, a patch's


class Probes(nn.Module):
    """Linear readings of patch features, image embeddings and, where a picture ends, of the
    decoder's states."""

    def __init__(self, model: MiniCPMV) -> None:
        super().__init__()
        width, size = model.config.vision.hidden_size, model.config.decoder.hidden_size
        self.patch = nn.Linear(width, HALVES * CHARACTER_CLASSES)
        self.covering = nn.Linear(width, QUARTERS * CHARACTER_CLASSES)
        self.marks = nn.Linear(width, sum(MARK_CLASSES))
        self.shares = nn.Linear(width, KINDS)
        self.text = nn.Linear(size, SLOTS * CHARACTER_CLASSES)
        self.counts = nn.Linear(size, KINDS)
        nn.init.zeros_(self.shares.weight)
        nn.init.constant_(self.shares.bias, 2 * _FEW)
        nn.init.constant_(self.counts.bias, _FEW)
        self.places = nn.Linear(size, 2 * PLACES)
        self.totals = nn.Linear(size, KINDS)

    def of_patches(self) -> list[nn.Parameter]:
        """Parameters that read patches."""
        return [
            parameter
            for probe in (self.patch, self.covering, self.marks, self.shares)
            for parameter in probe.parameters()
        ]

    def of_queries(self) -> list[nn.Parameter]:
        """Parameters that read queries."""
        return [
            parameter
            for probe in (self.text, self.counts, self.places)
            for parameter in probe.parameters()
        ]

    def of_decoder(self) -> list[nn.Parameter]:
        """Parameters that read the decoder."""
        return list(self.totals.parameters())


@dataclass(frozen=True)
class Weights:
    """How much each loss counts; an answer that does not count is not computed."""

    answer: float = 1.0
    query: float = 0.5
    patch: float = 0.5


@dataclass
class Losses:
    """Means over the batch; `correct` counts answers whose every token is the most likely one."""

    total: Tensor
    answer: float
    query: float
    patch: float
    text: float  # share of texts that the queries tell exactly
    correct: tuple[bool, ...]


Kept = tuple[TrainingView, np.ndarray]  # a view and the numbers of its patches that are computed
Seen = MutableMapping[Example, list[tuple[Tensor, Kept]]]  # features of an example's views
Memory = MutableMapping[Example, Tensor]  # image embeddings (groups, queries, D)


def query_losses(
    model: MiniCPMV,
    probes: Probes,
    examples: Sequence[Example],
    thinning: float,
    rng: np.random.Generator,
    seen: Seen,
) -> Losses:
    """What the queries should tell, with patches computed once an example: only the resampler
    learns."""
    new = [example for example in dict.fromkeys(examples) if example not in seen]
    if new:
        with torch.no_grad():
            groups = [group for example in new for group in example.groups]
            views = zip(*_features(model, groups, thinning, rng), strict=True)
        for example in new:
            seen[example] = list(islice(views, sum(len(g.views) for g in example.groups)))
    features, kept = zip(*(view for example in examples for view in seen[example]), strict=True)
    groups = [group for example in examples for group in example.groups]
    query, text = _query_loss(probes, _embeds(model, groups, features, kept), groups)
    correct = tuple(False for _ in examples)
    return Losses(query, 0.0, float(query.detach()), 0.0, text, correct)


def answer_losses(
    model: MiniCPMV,
    probes: Probes,
    examples: Sequence[Example],
    thinning: float,
    rng: np.random.Generator,
    memory: Memory,
) -> Losses:
    """The answers' loss alone, with what is seen computed once an example: only the decoder
    learns."""
    new = [example for example in dict.fromkeys(examples) if example not in memory]
    if new:
        with torch.no_grad():
            groups = [group for example in new for group in example.groups]
            embeds = _embeds(model, groups, *_features(model, groups, thinning, rng))
        parts = torch.split(embeds, [len(example.groups) for example in new])
        memory.update(zip(new, parts, strict=True))
    remembered = torch.cat([memory[example] for example in examples])
    total, answer, correct = _answer_loss(model, probes, remembered, examples)
    return Losses(total, answer, 0.0, 0.0, 0.0, correct)


def compute_losses(
    model: MiniCPMV,
    probes: Probes,
    examples: Sequence[Example],
    weights: Weights,
    thinning: float,
    rng: np.random.Generator,
) -> Losses:
    """Losses of a batch. `thinning` is the share of empty patches that is left out."""
    groups = [group for example in examples for group in example.groups]
    features, kept = _features(model, groups, thinning, rng)
    patch = _patch_loss(probes, features, kept) if weights.patch else torch.zeros(())
    query, text, answering, answer = torch.zeros(()), 0.0, torch.zeros(()), 0.0
    correct = tuple(False for _ in examples)
    if weights.query or weights.answer:
        embeds = _embeds(model, groups, features, kept)
        query, text = _query_loss(probes, embeds, groups)
    if weights.answer:
        answering, answer, correct = _answer_loss(model, probes, embeds, examples)
    total = weights.answer * answering + weights.query * query + weights.patch * patch
    return Losses(total, answer, float(query.detach()), float(patch.detach()), text, correct)


def _features(
    model: MiniCPMV, groups: Sequence[TrainingGroup], thinning: float, rng: np.random.Generator
) -> tuple[list[Tensor], list[Kept]]:
    """Features (patches, vision hidden) of every view, in order."""
    views = [view for group in groups for view in group.views]
    kept = [(view, _thin(view, thinning, rng)) for view in views]
    order = sorted(range(len(kept)), key=lambda n: len(kept[n][1]))
    features: list[Tensor] = [torch.empty(0)] * len(kept)
    buckets = model.config.vision.position_buckets
    for begin in range(0, len(order), _CHUNK):
        chunk = order[begin : begin + _CHUNK]
        if thinning:  # no padding where patches are left out anyway
            shortest = min(len(kept[n][1]) for n in chunk)
            for n in chunk:
                kept[n] = (kept[n][0], _cut(kept[n], shortest, rng))
        values = [torch.from_numpy(kept[n][0].patches[kept[n][1]]) for n in chunk]
        ids = [torch.from_numpy(_grid_ids(*kept[n][0].grid, buckets)[kept[n][1]]) for n in chunk]
        lengths = torch.tensor([len(v) for v in values])
        valid = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        pixels = pad_sequence(values, batch_first=True).float() / 127.5 - 1
        out = encode_views(model.vpm, pixels, pad_sequence(ids, batch_first=True).long(), valid)
        for row, n in enumerate(chunk):
            features[n] = out[row, : lengths[row]]
    return features, kept


def _thin(view: TrainingView, thinning: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers of the patches that are computed: all with content, the others by chance."""
    if not thinning:
        return np.arange(len(view.content))
    chosen = view.content | (rng.random(len(view.content)) >= thinning)
    chosen[int(rng.integers(len(chosen)))] = True
    return np.flatnonzero(chosen)


def _cut(kept: Kept, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` of the kept patches: empty ones go first."""
    view, numbers = kept
    order = rng.random(len(numbers)) + view.content[numbers]
    return np.sort(numbers[np.argsort(-order)[:length]])


def _patch_loss(probes: Probes, features: list[Tensor], kept: list[Kept]) -> Tensor:
    joined = torch.cat(features)
    characters = torch.from_numpy(np.concatenate([view.characters[n] for view, n in kept]))
    covering = torch.from_numpy(np.concatenate([view.covering[n] for view, n in kept]))
    marks = torch.from_numpy(np.concatenate([view.marks[n] for view, n in kept]))
    shape, colour = torch.split(probes.marks(joined), list(MARK_CLASSES), -1)
    of_shapes = _balanced(shape, marks[:, :1], _EMPTY_PATCH)
    of_shapes = of_shapes + _balanced(colour, marks[:, 1:], _EMPTY_PATCH)
    of_characters = _balanced(probes.patch(joined), characters, _EMPTY_PATCH)
    covered = _balanced(probes.covering(joined), covering, _EMPTY_PATCH)
    counts = [Counts(view.counts.cells[n], view.counts.shapes) for view, n in kept]
    counted = counting_loss(probes.shares(joined), counts)
    return (of_characters + covered) / 2 + _SHAPE_WEIGHT * (of_shapes + counted)


def _balanced(logits: Tensor, classes: Tensor, empty: float) -> Tensor:
    """Cross-entropy of logits (..., n · K) for classes (..., n), where BLANK counts `empty`: most
    places hold nothing. Zero where every place is to be ignored."""
    read = logits.reshape(classes.numel(), -1)
    if not bool((classes != IGNORE).any()):
        return logits.sum() * 0
    weights = torch.ones(read.shape[-1])
    weights[BLANK] = empty
    return functional.cross_entropy(read, classes.flatten(), weights)


_grid_positions = lru_cache(maxsize=1024)(sincos_2d)
_grid_ids = lru_cache(maxsize=1024)(position_ids)


def _positions(view: TrainingView, numbers: np.ndarray, size: int) -> Tensor:
    table = _grid_positions(*view.grid, size)[numbers] + sincos_time([view.time], size)
    return torch.from_numpy(table)


def _embeds(
    model: MiniCPMV,
    groups: Sequence[TrainingGroup],
    features: Sequence[Tensor],
    kept: Sequence[Kept],
) -> Tensor:
    """Image embeddings of every group, (groups, queries, D)."""
    size = model.config.decoder.hidden_size
    joined, tables, first = [], [], 0
    for group in groups:
        members = range(first, first + len(group.views))
        joined.append(torch.cat([features[n] for n in members]))
        tables.append(torch.cat([_positions(*kept[n], size) for n in members]))
        first += len(group.views)
    order = sorted(range(len(groups)), key=lambda n: len(joined[n]))
    embeds: list[Tensor] = [torch.empty(0)] * len(groups)
    for begin in range(0, len(order), _CHUNK):
        chunk = order[begin : begin + _CHUNK]
        lengths = torch.tensor([len(joined[n]) for n in chunk])
        valid = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        values = pad_sequence([joined[n] for n in chunk], batch_first=True)
        positions = pad_sequence([tables[n] for n in chunk], batch_first=True)
        out = resample(model.resampler, values, positions, valid)
        for row, n in enumerate(chunk):
            embeds[n] = out[row]
    return torch.stack(embeds)


def _query_loss(
    probes: Probes, embeds: Tensor, groups: Sequence[TrainingGroup]
) -> tuple[Tensor, float]:
    """What the queries should tell, and the share of texts that they tell exactly."""
    places = torch.from_numpy(np.stack([group.places for group in groups]))  # (G, Q, 2)
    texts = {n: torch.from_numpy(g.text) for n, g in enumerate(groups) if g.text is not None}
    spelled, exact = _spelling_loss(probes.text(embeds[list(texts)]), list(texts.values()))
    counts = _counts(groups)
    told = probes.counts(embeds[list(counts)]).flatten(0, 1)
    counted = counting_loss(told, list(counts.values()))
    total = spelled + _SHAPE_WEIGHT * (counted + _balanced(probes.places(embeds), places, 1.0))
    return total, exact


def _counts(groups: Sequence[TrainingGroup]) -> dict[int, Counts]:
    """Those of the groups that are judged by them, by the group's number."""
    return {n: group.counts for n, group in enumerate(groups) if group.counts is not None}


def _spelling_loss(logits: Tensor, texts: Sequence[Tensor]) -> tuple[Tensor, float]:
    """Connectionist temporal classification (Graves et al. 2006) of logits (G, Q, SLOTS · K), and
    the share of texts that the likeliest classes spell. Where in its row a character is told is
    left to the queries: one on the border of two columns belongs to neither."""
    if not texts:
        return logits.sum() * 0, 0.0
    slots = logits.reshape(len(texts), -1, CHARACTER_CLASSES)
    lengths = torch.tensor([len(text) for text in texts])
    losses = functional.ctc_loss(
        functional.log_softmax(slots, -1).transpose(0, 1),
        torch.cat(tuple(texts)),
        torch.full_like(lengths, slots.shape[1]),
        lengths,
        blank=BLANK,
        reduction="none",
    )
    told = [best[best != BLANK] for best in map(torch.unique_consecutive, slots.argmax(-1))]
    hits = [torch.equal(*pair) for pair in zip(told, texts, strict=True) if len(pair[1])]
    # A mean over characters; each text's end counts as one, so that empty ones count too.
    return losses.sum() / (lengths + 1).sum(), float(np.mean(hits)) if hits else 0.0


def _answer_loss(
    model: MiniCPMV, probes: Probes, embeds: Tensor, examples: Sequence[Example]
) -> tuple[Tensor, float, tuple[bool, ...]]:
    """The mean cross-entropy of all answers' tokens with how far off the decoder's counts are, it
    alone, and which answers are right throughout."""
    shown = torch.split(embeds, [len(example.groups) for example in examples])
    order = sorted(range(len(examples)), key=lambda n: len(examples[n].input_ids))
    losses, ends, count = [], [], 0
    correct = [False] * len(examples)
    for begin in range(0, len(order), _CHUNK):
        chunk = order[begin : begin + _CHUNK]
        part = [examples[n] for n in chunk]
        seen = torch.cat([shown[n] for n in chunk])
        logits, targets, counts, at_ends = _answers(model, seen, part)
        losses.append(functional.cross_entropy(logits, targets, reduction="sum"))
        ends.append(at_ends)
        count += len(targets)
        for n, hits in zip(chunk, torch.split(logits.argmax(-1) == targets, counts), strict=True):
            correct[n] = bool(hits.all())
    groups = [group for n in order for group in examples[n].groups]
    answer = torch.stack(losses).sum() / count
    total = answer + TOTALS_WEIGHT * _totals_loss(probes, torch.cat(ends), groups)
    return total, float(answer.detach()), tuple(correct)


def _totals_loss(probes: Probes, ends: Tensor, groups: Sequence[TrainingGroup]) -> Tensor:
    """How far off each picture's shapes are that the decoder's states (G, D) at its end tell: an
    answer asks for one of these numbers at a time, and says little of how to add up."""
    counts = _counts(groups)
    whole = [
        Counts(np.zeros(1, np.int64), each.shapes.sum(0, keepdims=True)) for each in counts.values()
    ]
    read = functional.rms_norm(ends[list(counts)], ends.shape[-1:])
    return counting_loss(probes.totals(read), whole)


def _answers(
    model: MiniCPMV, embeds: Tensor, examples: Sequence[Example]
) -> tuple[Tensor, Tensor, list[int], Tensor]:
    """Logits (N, vocab) and targets (N,) of the answers' tokens, how many each answer has, and the
    states (G, D) half-way through the decoder at the token after each image."""
    ids = pad_sequence([torch.from_numpy(e.input_ids) for e in examples], batch_first=True)
    inputs = model.llm.model.embed_tokens(ids)
    bounds = [(row, *pair) for row, e in enumerate(examples) for pair in e.image_bound.tolist()]
    rows, columns = zip(
        *((row, column) for row, begin, end in bounds for column in range(begin, end)), strict=True
    )
    inputs = inputs.index_put((torch.tensor(rows), torch.tensor(columns)), embeds.flatten(0, 1))
    middle, hidden = run_decoder(model.llm, inputs[:, :-1])
    ends = torch.tensor([(row, end) for row, _, end in bounds])
    answers = pad_sequence([torch.from_numpy(e.answers) for e in examples], batch_first=True)
    counted = answers[:, 1:]
    logits = model.llm.lm_head(hidden[counted])
    return logits, ids[:, 1:][counted], counted.sum(1).tolist(), middle[ends[:, 0], ends[:, 1]]
