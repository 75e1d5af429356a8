"""Draw the pictures of the shipped calibration examples: python -m examples.calibration.

They are questions of the kinds that the default model was trained on, from a seed of their own,
with their right answers. Handwritten digits come from the half that answers are never judged by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import export.calibration
from mobile_runtime.files import write_json
from validation.questions.question import Question
from validation.questions.tasks import TASKS, draw_question

SEED = 20_261  # of no training and of no evaluation
PER_TASK = 2
_FOLDER = Path(export.calibration.__file__).parent / "data"


def main() -> None:
    """Write pictures.json and its pictures."""
    folder = _FOLDER / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    chats = [
        _chat(draw_question(task, SEED, n), f"{task}_{n}", folder)
        for task in TASKS
        for n in range(PER_TASK)
    ]
    write_json(_FOLDER / "pictures.json", {"chats": chats})


def _chat(question: Question, name: str, folder: Path) -> dict[str, Any]:
    """The conversation with all its answers; pictures are saved to `folder`."""
    messages = question.messages([turn.answer for turn in question.turns])
    count = 0
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image":
                file = f"{name}_{count}.jpg"
                part["image"].convert("RGB").save(folder / file, quality=88)
                part["image"] = f"pictures/{file}"
                count += 1
    options = question.options()
    chat: dict[str, Any] = {"messages": messages}
    if question.max_slice_nums is not None:
        chat["max_slice_nums"] = question.max_slice_nums
    if options.temporal_ids is not None:
        chat |= {"use_image_id": False, "temporal_ids": [list(g) for g in options.temporal_ids]}
    if question.turns[-1].thoughts is not None:
        chat["enable_thinking"] = True
        messages[-1]["reasoning_content"] = question.turns[-1].thoughts
    return chat


if __name__ == "__main__":
    main()
