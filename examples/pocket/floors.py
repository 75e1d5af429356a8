"""Scores that a run of two hours should reach, checked on part of the fixed set at its end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from validation.answers.answers import Candidate, score_candidates

FLOOR_MINUTES = 120.0  # of each of two workers
_ITEMS = 60
# Right answers in percent: the least that sixty questions show, in 39 of 40 draws, if the true
# scores are those after 112 minutes.
FLOORS: Mapping[str, float] = {
    "printed_text": 25,
    "handwritten_digits": 40,
    "shapes": 30,
    "two_pictures": 35,
    "slices": 15,
    "video_direction": 35,
    "video_order": 15,
    "second_turn": 25,
    "thinking": 15,
}


def print_floors(checkpoint: Path, tasks: Collection[str], jobs: int) -> None:
    """Print the scores of `checkpoint` on `tasks` beside the floors."""
    floors = {task: floor for task, floor in FLOORS.items() if task in tasks}
    candidate = Candidate("PyTorch fp32", str(checkpoint))
    report = score_candidates([candidate], list(floors), _ITEMS, jobs)
    table = Table("task", f"right in % of {_ITEMS}", f"floor of {FLOOR_MINUTES:.0f} minutes", "")
    for task, floor in floors.items():
        score = report.scores[task, candidate.name]
        verdict = "reached" if 100 * score.share >= floor else "missed"
        table.add_row(task.replace("_", " "), str(score), f"{floor:.0f}", verdict)
    Console(highlight=False).print(table)
