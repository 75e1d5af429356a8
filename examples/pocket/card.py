"""`python -m examples.pocket.card`: write the pocket model's card from its measurements."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.pocket.curriculum import (
    FITTING_SECONDS,
    FITTING_SHARE,
    GENTLY,
    GPU_STAGES,
    STAGES,
    Stage,
)
from examples.pocket.state import FACTS_FILE
from export.checkpoint.locate import DEFAULT_CHECKPOINT
from validation.answers.report import answers_table
from validation.questions.fonts import FACES

_RESULTS = Path("benchmarks/results")

# Right answers in percent of PyTorch fp32 that the model is made for.
_GOALS = {
    "printed_text": 95,
    "handwritten_digits": 90,
    "shapes": 97,
    "two_pictures": 90,
    "slices": 90,
    "video_direction": 95,
    "video_order": 95,
    "second_turn": 90,
}
_MISTAKES_SHOWN = 4
_TEMPLATE = Path(__file__).parent / "card_template.md"


def _stage_rows(stages: Sequence[Stage]) -> str:
    rows = []
    for stage in stages:
        tasks = ", ".join(f"{name} {share:.2f}" for name, share in stage.tasks.items())
        weights = stage.weights
        rows.append(
            f"| {stage.name} | {100 * stage.until:.0f} % | {stage.batch} | {weights.answer} | "
            f"{weights.query} | {weights.patch} | {stage.thinning} | {tasks} |"
        )
    return "\n".join(rows)


def _run_rows(facts: dict[str, Any]) -> str:
    """The runs that made the weights, the oldest first; each began with what the last one left."""
    runs = [facts]
    while "began_with" in runs[0]:
        runs.insert(0, runs[0]["began_with"])
    rows, before = [], 0
    for run in runs:
        drawn = (run["drawn_per_worker"] - before) * run["workers"]
        before = run["drawn_per_worker"]
        rows.append(
            f"| {run.get('first_stage', STAGES[0].name)} | {run['minutes']:,.0f} | "
            f"{run.get('device', 'processor')} | {run['workers']} | {run['steps']:,} | {drawn:,} |"
        )
    return "\n".join(rows)


def _goal_rows(scores: dict[str, Any], candidate: str) -> str:
    """Distance of each task from its goal, and the first mistakes."""
    rows = []
    for task, goal in _GOALS.items():
        score = scores[task][candidate]
        missing = goal - 100 * score["right"] / score["total"]
        verdict = "reached" if missing <= 0 else f"short by {missing:.1f}"
        mistakes = [
            f"{_code(expected)} as {_code(given)}"
            for _, expected, given in score["mistakes"][:_MISTAKES_SHOWN]
        ]
        rows.append(f"| {task.replace('_', ' ')} | {goal} | {verdict} | {', '.join(mistakes)} |")
    return "\n".join(rows)


def _real_table(answers: dict[str, dict[str, str]]) -> str:
    questions = list(next(iter(answers.values())))
    lines = [f"| picture | {' | '.join(questions)} |", "|---" * (1 + len(questions)) + "|"]
    for picture, said in answers.items():
        cells = " | ".join(_code(text) for text in said.values())
        lines.append(f"| {picture} | {cells} |")
    return "\n".join(lines)


def _code(text: str) -> str:
    """An answer as one cell of a table."""
    line = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{line}`" if line else ""


def write_card(checkpoint: Path, results: Path) -> None:
    """Fill the template from the files in `results`: answers-*.json, real-pictures.json, and
    training-one-collection.json, what training tells of the model that knows one collection.
    Of these, answers-processors.json is of the weights before they had seen a GPU."""

    def read(name: str) -> Any:
        return json.loads((results / name).read_text(encoding="utf-8"))

    facts = json.loads((checkpoint / FACTS_FILE).read_text(encoding="utf-8"))
    reports = [read(f"answers-{name}.json") for name in ("all", "fp16", "fp32")]
    alone = read("training-one-collection.json")
    card = _TEMPLATE.read_text(encoding="utf-8").format(
        **{name: facts[name] for name in ("parameters", "seed")},
        runs=_run_rows(facts),
        faces=len(FACES),
        fitting=FITTING_SECONDS / 60,
        gently=GENTLY,
        share=FITTING_SHARE,
        stages=_stage_rows(STAGES),
        gpu_stages=_stage_rows(GPU_STAGES),
        scores=answers_table(reports),
        on_processors=answers_table([read("answers-processors.json")]),
        goals=_goal_rows(reports[0]["scores"], reports[0]["candidates"][0]),
        collection=", ".join(alone["collections"]),
        minutes_alone=alone["minutes"],
        one_collection=answers_table([read("answers-one-collection.json")]),
        real=_real_table(read("real-pictures.json")),
    )
    (checkpoint / "README.md").write_text(card, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write README.md into the checkpoint's folder."""
    parser = argparse.ArgumentParser(prog="python -m examples.pocket.card", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--results", type=Path, default=_RESULTS)
    options = parser.parse_args(arguments)
    try:
        write_card(options.checkpoint, options.results)
    except FileNotFoundError as error:
        print(
            f"error: there is no {error.filename}; `make figures` and `make one-collection` "
            "measure what the card tells.",
            file=sys.stderr,
        )
        return 2
    print(options.checkpoint / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
