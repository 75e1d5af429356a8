"""Random programs that slice, update and write states in place, against plain copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.engines.mil.registry import OPERATIONS

mb = pytest.importorskip("coremltools.converters.mil").Builder

SHAPE = (4, 3)
STATES = {"a": (SHAPE, "float16"), "b": (SHAPE, "float16")}
ACTIONS = ("read", "update", "update", "write", "write", "add", "view", "reverse")


@dataclass
class RandomProgram:
    """Builds operations and, beside each, its value by numpy with a copy at every step."""

    seed: int
    states: dict[str, np.ndarray]
    live: list[tuple[object, np.ndarray]] = field(default_factory=list)

    def build(self, x, **handles) -> list[object]:
        rng = np.random.default_rng(self.seed)
        self.live = [(x, np.ones(SHAPE, np.float32))]
        for _ in range(14):
            action: Callable = getattr(self, "_" + ACTIONS[rng.integers(len(ACTIONS))])
            recent = self.live[-min(4, len(self.live)) :]
            action(rng, handles, *recent[rng.integers(len(recent))])
        chosen = [self.live[n] for n in rng.choice(len(self.live), min(5, len(self.live)), False)]
        self.expected = [value for _, value in chosen]
        return [var for var, _ in chosen]

    def _keep(self, var, value: np.ndarray) -> None:
        self.live.append((var, value.copy()))

    def _read(self, rng, handles, var, value) -> None:
        name = "ab"[rng.integers(2)]
        self._keep(mb.read_state(input=handles[name]), self.states[name])

    def _write(self, rng, handles, var, value) -> None:
        name = "ab"[rng.integers(2)]
        self.states[name] = value.copy()
        self._keep(mb.coreml_update_state(state=handles[name], value=var), value)

    def _update(self, rng, handles, var, value) -> None:
        row, number = int(rng.integers(4)), np.float16(rng.integers(1, 9))
        new = np.full((1, 3), number, np.float16)
        changed = value.copy()
        changed[row] = number
        place = {"begin": [row, 0], "end": [row + 1, 3]}
        self._keep(mb.slice_update(x=var, update=new, **place), changed)

    def _add(self, rng, handles, var, value) -> None:
        self._keep(mb.add(x=var, y=np.float16(1)), value + 1)

    def _view(self, rng, handles, var, value) -> None:
        flat = mb.reshape(x=var, shape=[12])
        self._keep(mb.reshape(x=flat, shape=list(SHAPE)), value)

    def _reverse(self, rng, handles, var, value) -> None:
        self._keep(mb.reverse(x=var, axes=[0]), value[::-1])


@pytest.mark.parametrize("seed", range(60))
def test_program_gives_what_it_gives_when_every_step_copies(seed, save):
    zeros = {name: np.zeros(SHAPE, np.float32) for name in STATES}
    program = RandomProgram(seed, zeros)
    x = np.ones(SHAPE, np.float16)
    engine = MilEngine(save(program.build, {"x": x}, STATES))
    state = engine.new_state()
    results = engine.run({"x": x}, state=state)
    for spec, expected in zip(engine.functions["main"].outputs, program.expected, strict=True):
        np.testing.assert_array_equal(results[spec.name], expected)
    for name, expected in program.states.items():
        np.testing.assert_array_equal(state[name], expected)
    assert np.unique(x) == 1


def test_random_programs_do_write_in_place(save):
    """Guards the test above: a planner that always copies would pass it."""
    x = np.ones(SHAPE, np.float16)
    written = 0
    for seed in range(60):
        program = RandomProgram(seed, {name: np.zeros(SHAPE, np.float32) for name in STATES})
        engine = MilEngine(save(program.build, {"x": x}, STATES))
        steps = engine._plans["main"].steps
        written += sum(s.operation.type == "slice_update" and s.detach is not None for s in steps)
        if written > 20:
            return
    pytest.fail(f"60 programs write in place {written} times, not more than 20")


FRESH = {
    "cast": {"dtype": "fp32"},
    "clip": {"alpha": -9.0, "beta": 9.0},
    "concat": None,
    "pad": {"pad": np.zeros(4, int)},
    "reduce_sum": {"axes": np.array([], int)},
    "relu": {},
    "select": None,
    "stack": None,
    "threshold": {"alpha": -9.0},
    "tile": {"reps": [1, 1]},
    "gather": {"indices": np.arange(4)},
    "cumsum": {"axis": 1},
}


@pytest.mark.parametrize("op", FRESH)
def test_result_declared_as_new_shares_no_memory(op):
    x = np.ones(SHAPE, np.float32)
    special = {
        "concat": {"values": (x,), "axis": 0},
        "stack": {"values": (x,), "axis": 0},
        "select": {"cond": np.array(True), "a": x, "b": x},
    }
    arguments = special.get(op) or {"x": x, **FRESH[op]}
    assert OPERATIONS[op].result != "viewed"
    assert not np.shares_memory(OPERATIONS[op].function(**arguments), x)
