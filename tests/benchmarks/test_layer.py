"""The comparison with stock coremltools: that both ways make the same decoder, and the ratios."""

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from benchmarks.layer import (
    TOLERANCE,
    TOOLS,
    WEIGHTS,
    main,
    plan_decoder,
    summarize,
    write_layers,
)
from benchmarks.machine import describe_machine, run_child
from benchmarks.package import folder_bytes, package_error, read_tables
from benchmarks.published import config_values
from benchmarks.stock import STATES, load_module, palettize
from export.checkpoint.checkpoint import Checkpoint
from export.config import ExportConfig
from export.graphs.weights import load_weight
from export.quant.recipe import QuantSpec
from export.releases import parse_config
from mobile_runtime.engines.mil import MilEngine
from validation.reference.qwen import KeyValueCache, Qwen

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the stock way
HIDDEN, HEAD_DIM, CONTEXT = 640, 64, 2048
# Groups of 16 rows below 10,000 values would go to scikit-learn in coremltools, which is not exact.
CONFIG = config_values(1) | {
    "hidden_size": HIDDEN,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "head_dim": HEAD_DIM,
    "intermediate_size": 768,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A narrow decoder layer."""
    folder = tmp_path_factory.mktemp("layers") / "checkpoint"
    write_layers(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def packages(checkpoint):
    """Both tools' packages of the same weights."""
    made = {}
    for tool, run in TOOLS.items():
        made[tool] = checkpoint.parent / tool / "decoder.mlpackage"
        made[tool].parent.mkdir()
        seconds = run(checkpoint, made[tool])
        assert seconds["cpu"] > 0
        assert sum(seconds["steps"].values()) == pytest.approx(seconds["wall"], rel=0.1)
    return made


def inputs(position, length):
    """One call in our layout: (1, hidden, 1, S), (1, 1, head_dim, S)."""
    random = np.random.default_rng(position)
    hidden = random.standard_normal((1, HIDDEN, 1, length)).astype(np.float32)
    places = np.arange(position, position + length)
    angles = np.tile(1e6 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM), 2)[:, None] * places
    mask = np.where(np.arange(CONTEXT) > places[:, None], -1e4, 0)
    return {
        "hidden_states": hidden,
        "cos": np.cos(angles)[None, None].astype(np.float32),
        "sin": np.sin(angles)[None, None].astype(np.float32),
        "attention_mask": mask[None, None].astype(np.float32),
        "position": np.array([position], np.int32),
    }


def stock_layout(ours):
    """(1, S, hidden) and (S, head_dim)."""
    hidden = ours["hidden_states"][0, :, 0].T[None]
    return ours | {"hidden_states": hidden} | {n: ours[n][0, 0].T for n in ("cos", "sin")}


def test_both_packages_are_the_same_decoder(packages):
    ours, stock = (MilEngine(packages[tool], precision="fp32") for tool in TOOLS)
    states = ours.new_state(), stock.new_state()
    position, outputs = 0, []
    for function, length in (("prefill", 64), ("decode", 1)):
        given = inputs(position, length)
        mine = ours.run(given, function=function, state=states[0])
        other = stock.run(stock_layout(given), function=function, state=states[1])
        outputs.append((mine["output_hidden_states"][0, :, 0].T, other["output_hidden_states"][0]))
        position += length
    for mine, other in outputs:
        assert mine.std() > 0.5
        np.testing.assert_allclose(mine, other, atol=1e-3 * np.abs(other).max())
    (cache,) = states[0].values()
    for n, name in enumerate(STATES):
        written = np.abs(states[1][name][0]).max((0, 2)) > 0  # of each position
        assert written.tolist() == [True] * position + [False] * (CONTEXT - position)
        np.testing.assert_allclose(cache[n], states[1][name][0], atol=1e-3 * np.abs(cache).max())


@torch.no_grad()
def test_stock_module_is_the_published_decoder(tmp_path):
    """Of two layers, so that the rows of the cache matter; with the module's own cosines."""
    config = parse_config(CONFIG | {"num_hidden_layers": 2}).decoder
    write_layers(CONFIG | {"num_hidden_layers": 2}, tmp_path / "checkpoint")
    stock = load_module(tmp_path / "checkpoint" / WEIGHTS, config, CONTEXT)
    reference = Qwen(config)
    reference.model.load_state_dict(dict(stock.named_parameters()), strict=False)
    cache, position = KeyValueCache.empty(config, CONTEXT), 0
    for length in (5, 1, 1):
        ours = inputs(position, length)
        given = {n: torch.from_numpy(array).float() for n, array in stock_layout(ours).items()}
        place = torch.tensor([position], dtype=torch.int32)
        result = stock(**given | {"position": place})
        expected = reference.run_layers(given["hidden_states"][0], position, cache)
        torch.testing.assert_close(result[0], expected, atol=1e-4, rtol=1e-4)
        position += length


def test_both_packages_hold_the_same_squared_error(packages, checkpoint):
    ours, stock = (package_error(packages[tool], checkpoint) for tool in TOOLS)
    assert ours == pytest.approx(stock, rel=TOLERANCE)
    plan, graph = plan_decoder(checkpoint)
    source = Checkpoint(checkpoint)
    expected = 0.0
    for parameter in (p for p in graph.parameters if p.is_matrix):
        given = source.read(parameter.name).astype(np.float64)
        kept = load_weight(parameter, source, plan.specs[parameter.name]).dequantize()
        expected += float(np.square(given - kept).sum())
    assert ours == pytest.approx(expected, rel=1e-6)


def test_both_packages_hold_four_bits_a_weight_once(packages, checkpoint):
    weights = sum(np.prod(info.shape) for info in Checkpoint(checkpoint).tensors.values())
    for package in packages.values():
        tables = read_tables(package, "decode")
        assert len(tables) == 7  # matrices
        assert {lut.shape[1] for _, lut in tables.values()} == {16}
        assert 0.5 * weights < folder_bytes(package) < 0.56 * weights


def test_plan_has_the_defaults_of_the_export(checkpoint):
    plan, graph = plan_decoder(checkpoint)
    assert plan.decoding.context_length == ExportConfig().context_length == CONTEXT
    assert [function.name for function in graph.functions] == ["prefill", "decode"]
    specs = {plan.specs[p.name] for p in graph.parameters if p.is_matrix}
    assert specs == {QuantSpec("lut", 4, 16)}


def test_second_palettization_needs_the_pool_released():
    """When it does not fail any more, `release_workers` can go."""
    spec = mb.TensorSpec((1, 640), dtype=types.fp16)
    weight = np.random.default_rng(0).standard_normal((32, 640)).astype(np.float16)

    @mb.program(input_specs=[spec], opset_version=ct.target.iOS18)
    def program(x):
        return mb.linear(x=x, weight=weight)

    model = ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    config = cto.OptimizationConfig(
        cto.OpPalettizerConfig(
            nbits=4, granularity="per_grouped_channel", group_size=16, num_kmeans_workers=2
        )
    )
    for _ in range(2):
        palettize(model, QuantSpec("lut", 4, 16))
    cto.palettize_weights(model, config)
    with pytest.raises(ValueError, match="Pool not running"):
        cto.palettize_weights(model, config)


def test_ratios_compare_medians_and_peaks():
    def runs(*pairs):
        return [
            {
                "seconds": {"wall": s, "cpu": 3 * s},
                "usage": {"own": peak, "mapped": 0},
            }
            for s, peak in pairs
        ]

    results = {
        "ours": {"runs": runs((1, 10), (2, 30), (9, 20)), "error": 1.0},
        "coremltools": {"runs": runs((20, 60), (10, 90), (40, 50)), "error": 2.0},
    }
    summarize(results)
    stock = results["coremltools"]
    assert stock["ours_is_faster_by"] == 10
    assert stock["cpu_seconds"] == 60 and stock["cpu_seconds_to_ours"] == 10
    assert stock["memory_to_ours"] == 3
    assert stock["error_of_ours_to_this"] == 0.5
    assert results["ours"]["ours_is_faster_by"] == 1


def test_more_layers_than_one_package_holds_are_refused_before_any_weight(capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.layer.write_shard", lambda *_: pytest.fail("wrote weights"))
    assert main(["--layers", "12"]) == 2
    assert "12 layers make 2 packages; give fewer --layers." in capsys.readouterr().err


def test_no_repetition_is_refused(capsys):
    assert main(["--repetitions", "0"]) == 2
    assert "give 1 or more" in capsys.readouterr().err


def test_failure_of_a_child_shows_its_error(tmp_path):
    with pytest.raises(SystemExit, match=r"--child ours .* failed:[\s\S]*FileNotFoundError"):
        run_child("benchmarks.palettize", "ours", str(tmp_path / "absent"))


def test_machine_is_described_with_load_versions_and_commit():
    machine = describe_machine()
    assert machine["versions"]["numpy"] == np.__version__
    assert machine["cores"] >= 1 and machine["commit"] and machine["processor"]
