"""The loss of training: the answer's cross-entropy, and losses of patches and queries.

Small heads that exist only in training read characters off patches and queries. They give every
patch a target of its own, which the answer alone would reach only through the whole model.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.pocket.batch import (
    GRID_SIDE,
    PROCESSOR_CHUNK,
    Batch,
    Groups,
    Kept,
    PromptChunk,
    Prompts,
    Views,
    join_groups,
    join_prompts,
    join_views,
)
from examples.pocket.counting import KINDS, counting_loss
from examples.pocket.curriculum import Weights
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
)
from examples.pocket.forward import encode_views, resample, run_decoder
from examples.pocket.recolour import recolour
from mobile_runtime.model.positions import sincos_2d, sincos_time
from validation.reference.minicpmv import MiniCPMV

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


@dataclass
class Losses:
    """Means over the batch, on its device."""

    total: Tensor
    answer: Tensor
    query: Tensor
    patch: Tensor
    text: Tensor  # share of texts that the queries tell exactly
    exact: Tensor  # share of answers whose every token is the most likely one


Seen = MutableMapping[Example, tuple[Tensor, list[Kept]]]  # features of an example's patches
Memory = MutableMapping[Example, Tensor]  # image embeddings (groups, queries, D)


def query_losses(
    model: MiniCPMV,
    probes: Probes,
    examples: Sequence[Example],
    thinning: float,
    rng: np.random.Generator,
    seen: Seen,
) -> Losses:
    """The loss of the queries, with patches computed once per example: only the resampler
    learns."""
    new = [example for example in dict.fromkeys(examples) if example not in seen]
    if new:
        views, kept = join_views(new, thinning, rng, PROCESSOR_CHUNK)
        with torch.no_grad():
            features = _features(model, views)
        seen.update(zip(new, _by_example(new, features, kept), strict=True))
    features = torch.cat([seen[example][0] for example in examples])
    kept = [numbers for example in examples for numbers in seen[example][1]]
    groups = join_groups(examples, kept, PROCESSOR_CHUNK)
    query, text = _query_loss(probes, _embeds(model, features, groups), groups)
    nothing = torch.zeros(())
    return Losses(query, nothing, query.detach(), nothing, text, nothing)


def _by_example(
    examples: Sequence[Example], features: Tensor, kept: Sequence[Kept]
) -> list[tuple[Tensor, list[Kept]]]:
    views = [sum(len(group.views) for group in example.groups) for example in examples]
    of_each = [list(kept[begin:end]) for begin, end in pairwise(accumulate(views, initial=0))]
    lengths = [sum(map(len, numbers)) for numbers in of_each]
    return list(zip(torch.split(features, lengths), of_each, strict=True))


def answer_losses(
    model: MiniCPMV,
    probes: Probes,
    examples: Sequence[Example],
    thinning: float,
    rng: np.random.Generator,
    memory: Memory,
) -> Losses:
    """Only the answers' loss, with image embeddings computed once per example: only the decoder
    learns."""
    new = [example for example in dict.fromkeys(examples) if example not in memory]
    if new:
        views, kept = join_views(new, thinning, rng, PROCESSOR_CHUNK)
        groups = join_groups(new, kept, PROCESSOR_CHUNK)
        with torch.no_grad():
            embeds = _embeds(model, _features(model, views), groups)
        parts = torch.split(embeds, [len(example.groups) for example in new])
        memory.update(zip(new, parts, strict=True))
    remembered = torch.cat([memory[example] for example in examples])
    prompts = join_prompts(examples, PROCESSOR_CHUNK)
    total, answer, exact = _answer_loss(model, probes, remembered, prompts)
    nothing = torch.zeros(())
    return Losses(total, answer.detach(), nothing, nothing, nothing, exact)


def batch_losses(
    model: MiniCPMV,
    probes: Probes,
    batch: Batch,
    weights: Weights,
    colours: np.random.Generator | None = None,
) -> Losses:
    """Losses of a batch, shown in other colours drawn from `colours`."""
    features = _features(model, batch.views, colours)
    nothing = features.new_zeros(())
    patch = _patch_loss(probes, features, batch.views) if weights.patch else nothing
    query = text = answering = answer = exact = nothing
    if batch.groups is not None:
        embeds = _embeds(model, features, batch.groups)
        query, text = _query_loss(probes, embeds, batch.groups)
    if batch.prompts is not None:
        answering, answer, exact = _answer_loss(model, probes, embeds, batch.prompts)
    total = weights.answer * answering + weights.query * query + weights.patch * patch
    return Losses(total, answer.detach(), query.detach(), patch.detach(), text, exact)


def _features(model: MiniCPMV, views: Views, colours: np.random.Generator | None = None) -> Tensor:
    """Features (P, vision hidden) of the patches of all views, in order."""
    features = []
    for chunk in views.chunks:
        pixels = chunk.patches.float() / 127.5 - 1
        if colours is not None:
            pixels = recolour(pixels, chunk.colourless, colours)
        out = encode_views(model.vpm, pixels, chunk.ids, chunk.valid)
        features.append(out.flatten(0, 1))
    return torch.cat(features).index_select(0, views.order)


def _patch_loss(probes: Probes, features: Tensor, views: Views) -> Tensor:
    shape, colour = torch.split(probes.marks(features), list(MARK_CLASSES), -1)
    of_shapes = _balanced(shape, views.marks[:, :1], _EMPTY_PATCH)
    of_shapes = of_shapes + _balanced(colour, views.marks[:, 1:], _EMPTY_PATCH)
    of_characters = _balanced(probes.patch(features), views.characters, _EMPTY_PATCH)
    covered = _balanced(probes.covering(features), views.covering, _EMPTY_PATCH)
    counted = counting_loss(probes.shares(features), views.counts)
    return (of_characters + covered) / 2 + _SHAPE_WEIGHT * (of_shapes + counted)


def _balanced(logits: Tensor, classes: Tensor, empty: float) -> Tensor:
    """Cross-entropy of logits (..., n · K) for classes (..., n), in which BLANK counts `empty`:
    most places hold nothing. Zero if every place is to be ignored."""
    read, wanted = logits.reshape(classes.numel(), -1), classes.flatten()
    weights = torch.ones(read.shape[-1], device=read.device)
    weights[BLANK] = empty
    total = functional.cross_entropy(read, wanted, weights, ignore_index=IGNORE, reduction="sum")
    judged = weights[wanted.clamp(min=0)] * (wanted != IGNORE)
    return total / judged.sum().clamp(min=empty)


@lru_cache(maxsize=2)
def _position_table(size: int, device: torch.device) -> Tensor:
    return torch.from_numpy(sincos_2d(GRID_SIDE, GRID_SIDE, size)).to(device)


def _rows(table: Tensor, numbers: Tensor) -> Tensor:
    """Rows (..., D) of a table (n, D) by their numbers (...). Indexing does the same, but its
    gradient is added up row by row if a number comes often, as that of padding does."""
    rows = table.index_select(0, numbers.flatten())
    return rows.view(*numbers.shape, -1)


def _embeds(model: MiniCPMV, features: Tensor, groups: Groups) -> Tensor:
    """Image embeddings of every group, (groups, queries, D)."""
    size = model.config.decoder.hidden_size
    positions = _position_table(size, features.device)
    times = torch.from_numpy(sincos_time(groups.times, size)).to(features.device)
    embeds = [
        resample(
            model.resampler,
            _rows(features, chunk.patches),
            positions[chunk.positions] + times[chunk.times],
            chunk.valid,
        )
        for chunk in groups.chunks
    ]
    return torch.cat(embeds)[groups.order]


def _query_loss(probes: Probes, embeds: Tensor, groups: Groups) -> tuple[Tensor, Tensor]:
    """The loss of the queries, and the share of texts that they tell exactly."""
    told = probes.text(embeds[groups.told])
    spelled, exact = spelling_loss(told, groups.text, groups.lengths)
    counted = counting_loss(probes.counts(embeds[groups.counted]).flatten(0, 1), groups.counts)
    placed = _balanced(probes.places(embeds), groups.places, 1.0)
    return spelled + _SHAPE_WEIGHT * (counted + placed), exact


def spelling_loss(logits: Tensor, text: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Connectionist temporal classification (Graves et al. 2006) of logits (G, Q, SLOTS · K), and
    the share of texts that the likeliest classes spell; `text` (sum of `lengths`,) holds one text
    after the other. The queries may spell a character at any place in its row, because one on the
    border of two columns belongs to neither."""
    if not lengths:
        return logits.sum() * 0, logits.new_zeros(())
    slots = logits.reshape(len(lengths), -1, CHARACTER_CLASSES)
    losses = functional.ctc_loss(
        functional.log_softmax(slots, -1).transpose(0, 1),
        text,
        torch.full((len(lengths),), slots.shape[1]),
        torch.tensor(lengths),
        blank=BLANK,
        reduction="none",
    )
    # A mean over characters; each text's end counts as one, so that empty ones count too.
    return losses.sum() / (len(text) + len(lengths)), _spelled(slots.argmax(-1), text, lengths)


def _spelled(best: Tensor, text: Tensor, lengths: Sequence[int]) -> Tensor:
    """The share of texts that are not empty which the classes `best` (G, slots) spell, after equal
    neighbours are merged and blanks left out."""
    sizes = torch.tensor(lengths)
    rows = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    columns = torch.arange(len(rows)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    width = best.shape[1] + 1  # the last column takes what is left out
    wanted = best.new_zeros(len(sizes), width)
    wanted[rows.to(best.device), columns.to(best.device)] = text
    before = functional.pad(best[:, :-1], (1, 0), value=BLANK)
    said = (best != before) & (best != BLANK)
    places = torch.where(said, said.cumsum(1) - 1, width - 1)
    told = best.new_zeros(len(sizes), width).scatter_(1, places, best * said)
    hits = (told[:, :-1] == wanted[:, :-1]).all(1).float()
    judged = (sizes > 0).to(best.device)
    return (hits * judged).sum() / judged.sum().clamp(min=1)


def _answer_loss(
    model: MiniCPMV, probes: Probes, embeds: Tensor, prompts: Prompts
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean cross-entropy of all answers' tokens plus the weighted loss of the decoder's
    counts, the cross-entropy without it, and the share of answers that are right throughout."""
    losses, ends, wrong = [], [], []
    for chunk in prompts.chunks:
        logits, at_ends = _answers(model, embeds, chunk)
        losses.append(functional.cross_entropy(logits, chunk.answers, reduction="sum"))
        ends.append(at_ends)
        missed = (logits.argmax(-1) != chunk.answers).float()
        wrong.append(missed.new_zeros(len(chunk.ids)).index_add(0, chunk.askers, missed))
    answer = torch.stack(losses).sum() / sum(len(chunk.answers) for chunk in prompts.chunks)
    # A picture's shapes, which the states at its end tell: an answer asks for one of these numbers
    # at a time, and says little of how to add up.
    states = torch.cat(ends)[prompts.order][prompts.counted]
    read = functional.rms_norm(states, states.shape[-1:])
    counted = counting_loss(probes.totals(read), prompts.totals)
    exact = (torch.cat(wrong) == 0).float().mean()
    return answer + TOTALS_WEIGHT * counted, answer, exact


def _answers(model: MiniCPMV, embeds: Tensor, chunk: PromptChunk) -> tuple[Tensor, Tensor]:
    """Logits (N, vocab) of the answers' tokens, and the states (groups, D) half-way through the
    decoder at the token after each image."""
    inputs = model.llm.model.embed_tokens(chunk.ids)
    shown = embeds[chunk.groups].flatten(0, 1)
    inputs = inputs.flatten(0, 1).index_copy(0, chunk.embeddings, shown).view_as(inputs)
    middle, hidden = run_decoder(model.llm, inputs)
    logits = model.llm.lm_head(hidden.flatten(0, 1)[chunk.asked])
    return logits, middle.flatten(0, 1)[chunk.ends]
