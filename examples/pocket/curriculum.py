"""The curriculum: stages of a run, as data.

First the vision tower learns characters on pages full of them; then only the resampler learns to
put what it sees in order, on pictures whose empty patches are thinned out, and both together go on;
then, with pictures shown whole, only the decoder learns to talk about them, and at last all learn
together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Weights:
    """Weights of the losses; an answer of weight 0 is not computed."""

    answer: float = 1.0
    query: float = 0.5
    patch: float = 0.5


@dataclass(frozen=True)
class Stage:
    """A stretch of the run, up to the share `until` of its time."""

    name: str
    until: float
    tasks: Mapping[str, float]  # how often each task or other lesson is drawn
    weights: Weights
    batch: int  # examples of one worker in a step
    thinning: float = 0.8  # share of the empty patches that is left out
    shown: float = 1.5  # times an example is used: drawing one takes time, too
    recoloured: bool = False  # each time in other colours
    # What comes before a part is frozen.
    learns: Literal["all", "resampler", "decoder", "probes"] = "all"
    peak: float = 1.0  # of the learning rates

    def tasks_among(self, wanted: Collection[str]) -> Mapping[str, float]:
        """The stage's lessons that belong to `wanted` tasks."""
        return {t: share for t, share in self.tasks.items() if TASK_OF.get(t, t) in wanted}


PAGES = {"page": "printed_text", "digit_page": "handwritten_digits", "shape_page": "shapes"}
TASK_OF = {**PAGES, "counting": "shapes", "spelling": "second_turn", "comparing": "two_pictures"}

_CHARACTERS = {"page": 0.56, "digit_page": 0.32, "shape_page": 0.12}
_SEEING = {
    "page": 0.12,
    "digit_page": 0.1,
    "shape_page": 0.04,
    "printed_text": 0.23,
    "handwritten_digits": 0.18,
    "shapes": 0.2,
    "slices": 0.04,
    "video_direction": 0.04,
    "video_order": 0.05,
}
_ANSWERING = {
    "printed_text": 0.15,
    "handwritten_digits": 0.11,
    "shapes": 0.06,
    "counting": 0.1,
    "two_pictures": 0.08,
    "comparing": 0.07,
    "slices": 0.1,
    "video_direction": 0.05,
    "video_order": 0.06,
    "second_turn": 0.12,
    "spelling": 0.05,
    "thinking": 0.05,
}
# More of what is hardest for the decoder: to count, to compare, and to go back to what was said.
_TALKING = {
    "printed_text": 0.07,
    "handwritten_digits": 0.05,
    "shapes": 0.1,
    "counting": 0.22,
    "two_pictures": 0.07,
    "comparing": 0.08,
    "slices": 0.05,
    "video_direction": 0.03,
    "video_order": 0.05,
    "second_turn": 0.13,
    "spelling": 0.1,
    "thinking": 0.05,
}
STAGES = (
    Stage(
        "characters",
        0.36,
        _CHARACTERS,
        Weights(answer=0, query=0, patch=1),
        batch=16,
        shown=4,
        recoloured=True,
    ),
    Stage(
        "gathering",
        0.42,
        {task: share for task, share in _SEEING.items() if task not in PAGES},
        Weights(answer=0, query=1, patch=0),
        batch=48,
        shown=8,
        learns="resampler",
    ),
    Stage(
        "seeing",
        0.62,
        _SEEING,
        Weights(answer=0, query=1, patch=1),
        batch=16,
        shown=3,
        recoloured=True,
        peak=0.5,
    ),
    Stage(
        "talking",
        0.72,
        _TALKING,
        Weights(query=0, patch=0),
        batch=32,
        thinning=0,
        shown=3,
        learns="decoder",
    ),
    # Empty patches are new to tower and resampler here: the queries tell fewer texts with all shown
    # than with four of five left out, as before. Showing them from the start would slow every step.
    Stage(
        "whole",
        1.0,
        _ANSWERING,
        Weights(query=0.5, patch=0.1),
        batch=16,
        thinning=0,
        peak=0.25,
    ),
)


def stage_named(name: str, stages: Sequence[Stage] = STAGES) -> Stage:
    """The one of `stages` that is called `name`."""
    return next(stage for stage in stages if stage.name == name)


# On a GPU learning costs less than drawing: nothing is thinned out, and nothing is computed once
# and kept while only one part learns.
GPU_STAGES = (
    replace(stage_named("characters"), until=0.18, batch=256, thinning=0),
    replace(stage_named("seeing"), until=0.48, batch=384, thinning=0, peak=1.0),
    replace(stage_named("whole"), weights=Weights(query=0.5, patch=0.25), batch=512, peak=0.5),
)
CURRICULA: Mapping[str, tuple[Stage, ...]] = {"cpu": STAGES, "cuda": GPU_STAGES}  # by device


def fitting_before(stages: Sequence[Stage]) -> Stage:
    """Return the stage that comes first if a run begins with weights: a checkpoint has no probes,
    so new ones are fitted to it."""
    seeing = stage_named("seeing", stages)
    return replace(seeing, name="fitting", recoloured=False, learns="probes", peak=1.0)


FITTING_SECONDS, FITTING_SHARE = 180.0, 1 / 30  # of the run, if that is less
MATRIX_RATE = 0.01  # Muon's, for the matrices of layers
PEAK_RATE = 1e-3  # AdamW's, for everything else
WARM_UP = 0.03  # share of a stage in which the rates rise
DECAY_FROM = 0.6  # share of a stage after which they fall linearly
STAGE_END, RUN_END = 0.1, 0.02  # what they fall to, of their peaks
# Factor on the peak rates of a run that begins with weights; its rates fall right after the
# warm-up. High rates undo what the weights had reached, until they fall near the end of a stage.
GENTLY = 0.6


@dataclass(frozen=True)
class Schedule:
    """The stages over time in a run of `seconds`, which begins with the stage at `begin`, a share
    of all stages' time. One that begins with weights has `fitting` seconds at first in which only
    the probes learn, and gentler rates after them."""

    seconds: float
    begin: float = 0.0
    fitting: float = 0.0
    stages: tuple[Stage, ...] = STAGES

    def share(self, seconds: float) -> float:
        """Share of all stages that has passed after `seconds` of the run."""
        passed = max(0.0, seconds - self.fitting) / (self.seconds - self.fitting)
        return self.begin + (1 - self.begin) * passed

    def stage(self, seconds: float) -> Stage:
        """The stage after `seconds`."""
        if seconds < self.fitting:
            return fitting_before(self.stages)
        return stage_at(self.share(seconds), self.stages)

    def rate(self, seconds: float) -> float:
        """Factor on the learning rates after `seconds`."""
        if seconds < self.fitting:
            return fitting_before(self.stages).peak
        share = self.share(seconds)
        if self.fitting:
            return GENTLY * rate(share, self.stages, decay_from=WARM_UP)
        return rate(share, self.stages)

    def from_weights(self, stage: str) -> Schedule:
        """The same run, begun with weights and the stage called `stage`."""
        fitting = min(FITTING_SECONDS, self.seconds * FITTING_SHARE)
        begin = begin_of(stage_named(stage, self.stages), self.stages)
        return replace(self, begin=begin, fitting=fitting)


def stage_at(share: float, stages: Sequence[Stage] = STAGES) -> Stage:
    """The stage of the run after `share` of its time."""
    return next((stage for stage in stages if share < stage.until), stages[-1])


def begin_of(stage: Stage, stages: Sequence[Stage] = STAGES) -> float:
    """The share of the run's time at which `stage` begins."""
    return max((s.until for s in stages if s.until < stage.until), default=0.0)


def rate(share: float, stages: Sequence[Stage] = STAGES, decay_from: float = DECAY_FROM) -> float:
    """Factor on the learning rates after `share` of the run. Each stage warms up and, from the
    share `decay_from` of its time, cools down, so that the next one builds on settled weights. In
    the last stages, the rates are lower."""
    stage = stage_at(share, stages)
    begin = begin_of(stage, stages)
    within = min(1.0, (share - begin) / (stage.until - begin))
    end = RUN_END if stage is stages[-1] else STAGE_END
    decay = 1 - (1 - end) * max(0.0, within - decay_from) / (1 - decay_from)
    return stage.peak * min(1.0, 0.02 + within / WARM_UP) * decay
