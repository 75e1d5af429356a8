"""Drift: a matrix makes up for what the quantized model has lost before it, and no more."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from export.calibration.drift import Course, Drift
from export.calibration.layers import Inputs, LayerRunner, measure
from export.calibration.torch_ops import Compute
from validation.sources import open_checkpoint, rotated

COUNT, SPLIT, COLUMNS, ROWS = 600, 280, 12, 7
LAYER = "llm.model.layers.0"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))


def drift_of(x, exact, counts=None, stream=None):
    return Drift.between(measure(x, SPLIT, counts=counts), x, exact, counts, stream)


def test_what_follows_from_the_inputs_is_made_up_for(rng):
    x, weight = normal(rng, COUNT, COLUMNS), normal(rng, ROWS, COLUMNS)
    mixed = torch.eye(COLUMNS) + 0.1 * normal(rng, COLUMNS, COLUMNS)
    lost = 0.2 * normal(rng, ROWS, COLUMNS)
    corrected = drift_of(x, x @ mixed.T, stream=x @ lost.T).corrected(weight.numpy())
    wanted = (weight @ mixed + lost).numpy()
    before = np.abs(weight.numpy() - wanted).max()
    assert np.abs(corrected - wanted).max() < 0.02 * before


def test_drift_that_does_not_follow_from_the_inputs_changes_nothing(rng):
    x, weight = normal(rng, COUNT, COLUMNS), normal(rng, ROWS, COLUMNS).numpy()
    np.testing.assert_array_equal(drift_of(x, x).corrected(weight), weight)
    # One half has come off in one way, the other in the opposite one: none tells of the other.
    away = torch.cat([x[:SPLIT], -x[SPLIT:]]) * 0.1
    np.testing.assert_array_equal(drift_of(x, x + away).corrected(weight), weight)


def test_it_is_the_least_squares_solution_with_a_ridge(rng, monkeypatch):
    monkeypatch.setattr("export.calibration.drift.RIDGES", (0.1,))
    x, weight = normal(rng, COUNT, COLUMNS), normal(rng, ROWS, COLUMNS)
    exact = x + 0.3 * x.roll(1, 1) + 0.01 * normal(rng, COUNT, COLUMNS)
    counts = normal(rng, COUNT).square()
    root = counts.double().sqrt()[:, None]
    a, b = x.double() * root, (exact - x).double() @ weight.double().T * root
    ridge = 0.1 * a.square().mean() * torch.eye(COLUMNS, dtype=torch.float64)
    wanted = weight + torch.linalg.solve(a.T @ a / COUNT + ridge, a.T @ b / COUNT).T
    corrected = drift_of(x, exact, counts).corrected(weight.numpy())
    np.testing.assert_allclose(corrected, wanted.numpy(), atol=1e-4)


def test_a_block_that_lost_a_part_of_its_stream_gets_it_back(random_checkpoint, rng):
    source = rotated(open_checkpoint(str(random_checkpoint)), seed=0)
    runner = LayerRunner(source.described, Compute())
    size = source.config.decoder.hidden_size
    texts = [rng.normal(size=(n, size)).astype(np.float32) for n in (200, 210, 190, 220)]
    inputs = Inputs.of_texts(texts)
    inputs = replace(inputs, exact=inputs.hidden, hidden=0.95 * inputs.hidden)
    course = Course.of_block(runner, inputs, source.checkpoint)
    np.testing.assert_allclose(
        course.after, runner.run(replace(inputs, hidden=inputs.exact), source.checkpoint).hidden
    )
    loaded = {}

    def correct(parameters, x, stream):
        statistics = measure(x, inputs.split)
        for name in (parameter.name for parameter in parameters):
            drift = course.drift(name, statistics, x, stream, None)
            assert (drift.streams is not None) == name.endswith(
                ("o_proj.weight", "down_proj.weight")
            )
            loaded[name] = torch.from_numpy(drift.corrected(source.checkpoint.read(name)))

    runner.run(inputs, source.checkpoint, correct)
    before = runner.run(inputs, source.checkpoint).hidden - course.after
    after = runner.run(inputs, source.checkpoint, loaded=loaded).hidden - course.after
    assert f"{LAYER}.mlp.down_proj.weight" in loaded
    assert np.square(after).mean() < 0.9 * np.square(before).mean()


def test_texts_without_halves_correct_nothing(random_checkpoint, rng):
    source = rotated(open_checkpoint(str(random_checkpoint)), seed=0)
    course = Course(source.checkpoint, {}, np.zeros((1, 1), np.float32))
    x = normal(rng, 5, COLUMNS)
    assert course.drift(f"{LAYER}.mlp.up_proj.weight", measure(x, 5), x, x, None) is None
