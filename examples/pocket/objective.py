"""What training minimises: the answer's cross-entropy, and what the embeddings should tell.

Small heads that exist in training alone read characters off patches and queries. They give every
patch a target of its own, which the answer alone would reach only through the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from examples.pocket.example import (
    CHARACTER_CLASSES,
    FACTS,
    HALVES,
    IGNORE,
    Example,
    TrainingGroup,
    TrainingView,
)
from examples.pocket.forward import encode_views, resample, run_decoder
from export.models.minicpmv import MiniCPMV
from mobile_runtime.positions import position_ids, sincos_2d, sincos_time
from validation.questions.strings import MAX_LENGTH

_CHUNK = 12  # views or groups computed together, of like length
_PLACE_WEIGHT = 0.3
_EMPTY_WEIGHT = 0.05  # of a half patch that holds no character's middle


class Probes(nn.Module):
    """Linear readings of patch features and image embeddings."""

    def __init__(self, model: MiniCPMV) -> None:
        super().__init__()
        width, size = model.config.vision.hidden_size, model.config.decoder.hidden_size
        self.patch = nn.Linear(width, HALVES * (CHARACTER_CLASSES + MAX_LENGTH))
        self.character = nn.Linear(size, CHARACTER_CLASSES)
        self.facts = nn.ModuleList(nn.Linear(size, classes) for classes in FACTS.values())


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
    text: float  # share of views whose characters are all read off the queries
    correct: tuple[bool, ...]


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
    query, text, answer = torch.zeros(()), 0.0, torch.zeros(())
    correct = tuple(False for _ in examples)
    if weights.query or weights.answer:
        embeds = _embeds(model, groups, features, kept)
        query, text = _query_loss(probes, embeds, groups)
    if weights.answer:
        answer, correct = _answer_loss(model, embeds, examples)
    total = weights.answer * answer + weights.query * query + weights.patch * patch
    return Losses(
        total, float(answer.detach()), float(query.detach()), float(patch.detach()), text, correct
    )


Kept = tuple[TrainingView, np.ndarray]  # a view and the numbers of its patches that are computed


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


def _patch_loss(probes: Probes, features: list[Tensor], kept: list[Kept]) -> Tensor:
    read = probes.patch(torch.cat(features)).view(-1, HALVES, CHARACTER_CLASSES + MAX_LENGTH)
    characters = torch.from_numpy(np.concatenate([view.characters[n] for view, n in kept]))
    places = torch.from_numpy(np.concatenate([view.places[n] for view, n in kept]))
    balance = torch.ones(CHARACTER_CLASSES)
    balance[0] = _EMPTY_WEIGHT
    character = functional.cross_entropy(
        read[..., :CHARACTER_CLASSES].flatten(0, 1), characters.flatten(), balance
    )
    if not bool((places >= 0).any()):
        return character
    place = functional.cross_entropy(read[..., CHARACTER_CLASSES:].flatten(0, 1), places.flatten())
    return character + _PLACE_WEIGHT * place


_grid_positions = lru_cache(maxsize=1024)(sincos_2d)
_grid_ids = lru_cache(maxsize=1024)(position_ids)


def _positions(view: TrainingView, numbers: np.ndarray, size: int) -> Tensor:
    table = _grid_positions(*view.grid, size)[numbers] + sincos_time([view.time], size)
    return torch.from_numpy(table)


def _embeds(
    model: MiniCPMV, groups: Sequence[TrainingGroup], features: list[Tensor], kept: list[Kept]
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
    """Query n tells character n, the queries after them a fact each in turn."""
    text = torch.from_numpy(np.stack([group.text for group in groups]))
    read = probes.character(embeds[:, :MAX_LENGTH])
    losses = []
    known = text[:, 0] != IGNORE
    exact = 0.0
    if bool(known.any()):
        losses.append(functional.cross_entropy(read[known].flatten(0, 1), text[known].flatten()))
        hits = (read[known].argmax(-1) == text[known]).all(1)
        filled = text[known][:, 0] > 0
        exact = float(hits[filled].float().mean()) if bool(filled.any()) else 0.0
    facts = torch.from_numpy(np.stack([group.facts for group in groups]))
    spare = embeds.shape[1] - MAX_LENGTH
    for n, probe in enumerate(probes.facts):
        if bool((facts[:, n] != IGNORE).any()):
            told = probe(embeds[:, MAX_LENGTH + n % spare])
            losses.append(0.25 * functional.cross_entropy(told, facts[:, n], ignore_index=IGNORE))
    return torch.stack(losses).sum() if losses else embeds.sum() * 0, exact


def _answer_loss(
    model: MiniCPMV, embeds: Tensor, examples: Sequence[Example]
) -> tuple[Tensor, tuple[bool, ...]]:
    ids = pad_sequence([torch.from_numpy(e.input_ids) for e in examples], batch_first=True)
    inputs = model.llm.model.embed_tokens(ids)
    rows: list[int] = []
    columns: list[int] = []
    for row, example in enumerate(examples):
        for begin, end in example.image_bound:
            rows += [row] * (end - begin)
            columns += range(begin, end)
    inputs = inputs.index_put((torch.tensor(rows), torch.tensor(columns)), embeds.flatten(0, 1))
    hidden = run_decoder(model.llm, inputs[:, :-1])
    steps = torch.arange(1, ids.shape[1])[None]
    starts = torch.tensor([e.answer_start for e in examples])[:, None]
    ends = torch.tensor([len(e.input_ids) for e in examples])[:, None]
    counted = (steps >= starts) & (steps < ends)
    logits, targets = model.llm.lm_head(hidden[counted]), ids[:, 1:][counted]
    hits = logits.argmax(-1) == targets
    counts = counted.sum(1).tolist()
    correct = tuple(bool(part.all()) for part in hits.split(counts))
    return functional.cross_entropy(logits, targets), correct
