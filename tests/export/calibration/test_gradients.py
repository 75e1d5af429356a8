"""Gradients of a calibration: against finite differences, and what they count."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from export.calibration import gradients, row_products
from export.calibration.gradients import Gradients
from export.calibration.layers import Inputs, LayerRunner, measure
from export.calibration.torch_ops import Compute
from export.cli import main
from mobile_runtime.bundle import read_manifest
from validation.sources import open_checkpoint, rotated

LENGTHS = (5, 3, 4)


@pytest.fixture(scope="module")
def source(random_checkpoint):
    return rotated(open_checkpoint(str(random_checkpoint)), seed=0)


@pytest.fixture
def runner(source):
    return LayerRunner(source.described, Compute())


@pytest.fixture
def inputs(source):
    rng = np.random.default_rng(0)
    size = source.config.decoder.hidden_size
    return Inputs.of_texts([rng.normal(size=(n, size)).astype(np.float32) for n in LENGTHS])


def test_a_gradient_goes_back_through_a_block_as_finite_differences_say(
    source, runner, inputs, monkeypatch
):
    monkeypatch.setattr("export.calibration.layers._TOGETHER", 8)  # the texts in two batches
    rng = np.random.default_rng(1)
    arriving = rng.normal(size=inputs.hidden.shape).astype(np.float32)
    seen: dict[str, list[torch.Tensor]] = {}

    def observe(some, weight, found):
        assert some.stop <= inputs.split or some.start >= inputs.split, "one half"
        seen.setdefault(weight.name, []).append(found)

    leaving = runner.run_back(inputs, arriving, source.checkpoint, observe)
    for _ in range(3):
        step = 1e-2 * rng.normal(size=inputs.hidden.shape).astype(np.float32)
        ends = [
            runner.run(replace(inputs, hidden=inputs.hidden + sign * step), source.checkpoint)
            for sign in (1, -1)
        ]
        change = float(((ends[0].hidden - ends[1].hidden) * arriving).sum(dtype=np.float64)) / 2
        assert float((leaving * step).sum(dtype=np.float64)) == pytest.approx(change, rel=1e-2)
    # What the last matrix gives is added to the stream: its gradient is the one that arrives.
    down = torch.cat(seen["llm.model.layers.0.mlp.down_proj.weight"])
    np.testing.assert_allclose(down, arriving, rtol=1e-5)
    assert len(seen) == 7 and {sum(map(len, parts)) for parts in seen.values()} == {sum(LENGTHS)}


def test_products_of_rows_are_kept_as_far_as_both_halves_agree(monkeypatch):
    """Rows 0 and 1 go together in both halves, 0 and 2 in one half as they go apart in the other;
    row 3 is in another panel."""
    monkeypatch.setattr(row_products, "_PANEL", 3)
    first, second = torch.ones(2, 4), torch.ones(4, 4)
    first[1], second[2:] = -1, -1
    second[:, 2] *= -1
    products = row_products.RowProducts(4)
    products.add(2 * first, 0)
    products.add(2 * second[:2], 1)
    products.add(2 * second[2:], 1)
    panel, last = products.shrunk()
    # Off the diagonal, ⟨S₁, S₂⟩ is 2 · 16 · (1 − 1 − 1) < 0: nothing is kept.
    np.testing.assert_array_equal(panel, np.eye(3))
    np.testing.assert_array_equal(last, [[1]])
    second[:, 2] *= -1
    second[:2, 2] *= -1  # now the halves disagree half of the time
    products = row_products.RowProducts(4)
    products.add(first, 0)
    products.add(second, 1)
    panel, _ = products.shrunk()
    # S₁ has (1, 1, 1) off the diagonal, S₂ (1, 0, 0), all six positions (1, 1/3, 1/3).
    share = 1 / (1 + 2 / 9)
    expected = share * np.array([[1, 1, 1 / 3], [1, 1, 1 / 3], [1 / 3, 1 / 3, 1]])
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(panel, expected, rtol=1e-3)


def test_the_labels_are_drawn_from_the_model_itself(source, runner, inputs, tmp_path):
    """So the mean gradient of the logits is zero: with many labels, it becomes small."""
    repeated = replace(inputs, hidden=np.tile(inputs.hidden[:1], (4096, 1)))
    found = Gradients(runner, source.checkpoint, tmp_path)._end(repeated)
    one = np.square(found).mean()
    assert np.square(found.mean(0)).mean() < 4 * one / len(found)


def test_a_stopped_one_goes_on_to_the_same_numbers(source, runner, inputs, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    Gradients(runner, source.checkpoint, whole).complete(inputs, lambda *_: None)

    class Killed(Exception):
        pass

    def kill(*_):
        raise Killed

    with pytest.raises(Killed):
        Gradients(runner, source.checkpoint, stopped).complete(inputs, kill)
    monkeypatch.setattr(Gradients, "_run_forward", None)
    Gradients(runner, source.checkpoint, stopped).complete(inputs, lambda *_: None)
    for path in sorted(whole.iterdir()):
        expected, found = gradients.load_file(path), gradients.load_file(stopped / path.name)
        assert {name: array.tolist() for name, array in found.items()} == {
            name: array.tolist() for name, array in expected.items()
        }


def test_positions_count_by_their_gradients_and_alike(tmp_path):
    """Half by the squared gradient, and half as without: the means are one each."""
    squares = {"a": np.array([0.0, 3.0], np.float32), "b": np.array([1.0, 0.0], np.float32)}
    gradients.save_file(squares, str(tmp_path / "squares_000.st"))
    x = torch.ones(2, 8)
    counts = Gradients(None, None, tmp_path).counts(0, ["a", "b"], x)
    np.testing.assert_allclose(counts, [1.0, 1.0])
    counts = Gradients(None, None, tmp_path).counts(0, ["a"], x)
    np.testing.assert_allclose(counts, [0.5, 1.5])


def test_inputs_that_count_three_times_are_three_inputs():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    weighted = measure(x, 3, counts=torch.tensor([3.0, 0.0, 0.0, 1.0, 1.0, 1.0]))
    repeated = measure(torch.cat([x[:1]] * 3 + [x[3:]]), 3)
    for left, right in zip(weighted.parts, repeated.parts, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_a_bundle_says_so(random_checkpoint, tmp_path):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"texts": ["The quick brown fox. " * 30, "0123456789 " * 40]}))
    arguments = ["--checkpoint", str(random_checkpoint), "--calibration", str(texts), "--quiet"]
    output = ["--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    sizes = ["--context-length", "64", "--prefill-length", "4"]
    assert main(["coreml", *arguments, *output, *sizes, "--gradients"]) == 0
    (bundle,) = (tmp_path / "out").iterdir()
    assert bundle.name.endswith("-int4-calibrated")
    assert read_manifest(bundle).recipe["prepared"]["gradients"] is True
    assert "weighted by gradients" in (bundle / "README.md").read_text(encoding="utf-8")
    (kept,) = (tmp_path / "cache/calibrated").iterdir()
    assert not list(kept.glob("*.st")), "what was needed on the way is gone"


def test_gradients_of_nothing_are_refused(random_checkpoint, tmp_path, capsys):
    where = ["--checkpoint", str(random_checkpoint), "--output", str(tmp_path / "out")]
    assert main(["coreml", *where, "--quant", "int4-fast", "--gradients", "--quiet"]) == 2
    assert "--gradients is for choosing the decoder's integers" in capsys.readouterr().err
