"""What a bundle keeps of its checkpoint's next tokens: figures against their definitions."""

import json
import math

import numpy as np
import pytest

from validation.cli import main
from validation.quality.measure import Scores, bits_per_weight
from validation.quality.report import Quality, error_of_mean


def test_figures_of_two_tokens_follow_their_definitions():
    reference = np.log([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]])
    candidate = np.log([[0.25, 0.5, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]) + 7
    scores = Scores.of(candidate, reference, np.array([1, 0]))
    kl = 0.5 * math.log(2) - 0.25 * math.log(2)
    np.testing.assert_allclose(scores.kl, [kl, 0], atol=1e-12)
    assert scores.top[1].tolist() == [False, True] and scores.top[5].all()
    np.testing.assert_allclose(np.exp(-scores.loss), [0.5, 0.1])
    np.testing.assert_allclose(np.exp(-scores.reference_loss), [0.25, 0.1])
    quality = Quality.of("b", "t", 4.0, scores)
    assert quality.perplexity == pytest.approx((1 / (0.5 * 0.1)) ** 0.5)
    assert quality.top1 == 0.5 and math.isnan(quality.kl_error)


def test_intervals_hold_the_true_mean_of_dependent_values():
    """Of values that stay the same for eight tokens: as often as they promise."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        values = np.repeat(rng.normal(size=128), 8)
        hits += abs(values.mean()) < error_of_mean(values)
    assert 0.9 < hits / 300 < 0.98


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    return path


def test_floats_keep_everything_and_fewer_bits_less(make_bundle, random_checkpoint, text, tmp_path):
    bundles = [make_bundle(quant) for quant in ("none", "int8", "int4-fast")]
    path = tmp_path / "quality.json"
    arguments = ["--texts", str(text), "--tokens", "150", "--precision", "fp32"]
    checkpoint = ["--checkpoint", str(random_checkpoint), "--json", str(path)]
    assert main(["quality", *map(str, bundles), *arguments, *checkpoint]) == 0
    floats, eight, four = json.loads(path.read_text())["rows"]
    assert floats["kl"] < 1e-5 < eight["kl"] < four["kl"]
    assert floats["top1"] == 1 and floats["tokens"] == 149
    assert floats["perplexity"] == pytest.approx(floats["reference_perplexity"], rel=1e-4)
    # A table of 256 values for 16 rows of 256 columns or more is at most one bit per weight.
    assert floats["bits_per_weight"] > 16 > 9 > eight["bits_per_weight"] > 8
    assert 4.2 > four["bits_per_weight"] > 4


def test_a_rotated_bundle_is_compared_with_the_published_weights(random_checkpoint, text, tmp_path):
    from export.cli import main as export_main

    flags = ["--quant", "none", "--rotate", "--context-length", "128", "--quiet"]
    where = ["--checkpoint", str(random_checkpoint), "--output", str(tmp_path)]
    assert export_main(["coreml", *flags, *where]) == 0
    (bundle,) = tmp_path.iterdir()
    path = tmp_path / "quality.json"
    arguments = ["--texts", str(text), "--tokens", "100", "--precision", "fp32"]
    checkpoint = ["--checkpoint", str(random_checkpoint), "--json", str(path)]
    assert main(["quality", str(bundle), *arguments, *checkpoint]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert row["kl"] < 1e-5


def test_bundles_of_another_checkpoint_are_refused(make_bundle, text, capsys):
    assert main(["quality", str(make_bundle("int4-fast")), "--texts", str(text)]) == 2
    assert "give it with --checkpoint" in capsys.readouterr().err


def test_bits_count_tables_and_padding(make_bundle):
    from mobile_runtime.bundle import read_manifest

    manifest = read_manifest(make_bundle("int4-fast"))
    (decoder,) = [graph for graph in manifest.graphs if graph.role == "decoder"]
    assert bits_per_weight(manifest) == 8 * decoder.weight_bytes / decoder.parameters
