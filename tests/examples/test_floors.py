"""What a long run prints at its end: scores beside the floors."""

import pytest

from examples.pocket import floors
from examples.pocket.floors import FLOORS, print_floors
from validation.answers.report import AnswerReport, Score
from validation.questions.tasks import TASKS


def test_every_task_has_a_floor():
    assert set(FLOORS) == set(TASKS)
    assert all(0 <= floor <= 100 for floor in FLOORS.values())
    assert any(floor >= 20 for floor in FLOORS.values())


@pytest.mark.parametrize("right", [0, 60])
def test_scores_stand_beside_the_floors_of_the_tasks_that_were_trained(
    monkeypatch, capsys, tmp_path, right
):
    def score(candidates, rows, items, jobs):
        assert candidates[0].checkpoint == str(tmp_path) and jobs == 2
        name = candidates[0].name
        scores = {(row, name): Score(right, items, ()) for row in rows}
        return AnswerReport(0, items, tuple(rows), (name,), scores, {})

    monkeypatch.setattr(floors, "score_candidates", score)
    monkeypatch.setattr(floors, "FLOORS", {"printed_text": 30.0, "shapes": 90.0, "slices": 10.0})
    print_floors(tmp_path, ("printed_text", "shapes"), jobs=2)
    printed = capsys.readouterr().out
    assert printed.count("reached" if right else "missed") == 2
    assert "printed text" in printed and "shapes" in printed and "slices" not in printed
