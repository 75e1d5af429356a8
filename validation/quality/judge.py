"""Judges candidates on passages: rows of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from validation.quality.measure import Candidate, Scores, measure
from validation.quality.passages import CopyTask, Passage
from validation.quality.report import Copying, Quality
from validation.sources import OpenCheckpoint


def judge(
    candidates: Sequence[Candidate], source: OpenCheckpoint, named: Mapping[str, Sequence[Passage]]
) -> list[Quality]:
    """A row for each candidate on the passages under each name."""
    rows = []
    for name, passages in named.items():
        scores = list(measure(candidates, source, passages))
        for candidate in candidates:
            joined = Scores.joined([score[candidate.name] for score in scores])
            rows.append(Quality.of(candidate.name, name, candidate.bits, joined))
    return rows


def judge_copying(
    candidates: Sequence[Candidate], source: OpenCheckpoint, tasks: Sequence[CopyTask]
) -> list[Copying]:
    """A row for each candidate on the tasks of each kind and length."""
    scores = list(measure(candidates, source, [task.passage for task in tasks]))
    rows = []
    for candidate in candidates:
        found: dict[tuple[str, int], list[tuple[bool, bool]]] = {}
        for task, score in zip(tasks, scores, strict=True):
            pairs = found.setdefault((task.kind, task.length), [])
            own = score[candidate.name]
            pairs += [
                (bool(own.right[span].all()), bool(own.reference_right[span].all()))
                for span in task.spans
            ]
        rows += [Copying.of(candidate.name, *key, pairs) for key, pairs in found.items()]
    return rows
