"""The interpreter's benchmark: its packages and matrices are the model's, its sums are right."""

import math

import pytest

from benchmarks import interpreter
from benchmarks.interpreter import (
    CALLS,
    TOOLS,
    build_packages,
    main,
    matrices,
    one_layer_of_each,
    summarize,
    time_tool,
)
from benchmarks.readme import interpreter_table
from export.models.tensors import tensor_shapes
from export.releases import parse_config

SMALL = {
    **one_layer_of_each(),
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 96,
    "vocab_size": 512,
    "vision_config": {
        **one_layer_of_each()["vision_config"],
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    },
}
CONTEXT = 128
PARTS = {"decoder": "llm.model.layers.", "lm_head": "llm.lm_head", "vision_encoder": "vpm."}


@pytest.mark.parametrize("package", PARTS)
def test_matrices_are_those_of_the_checkpoint(package):
    shapes = {
        (shape[0], math.prod(shape[1:])): name
        for name, shape in tensor_shapes(parse_config(SMALL)).items()
        if name.startswith(PARTS[package]) and len(shape) > 1 and "position" not in name
    }
    assert set(matrices(SMALL, package)) == set(shapes)


def test_matrices_hold_the_published_weights_of_a_layer():
    assert sum(math.prod(shape) for shape in matrices(one_layer_of_each(), "decoder")) == 192937984


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The packages of a narrow model."""
    path = tmp_path_factory.mktemp("interpreter") / "packages"
    build_packages(SMALL, path, CONTEXT)
    (path / "context").write_text(str(CONTEXT))
    return path


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.package + call.function)
def test_every_tool_runs_every_call(tool, call, folder):
    samples = time_tool(tool, call, folder, 2, busy=False)
    assert len(samples) == 2 and all(sample.seconds > 0 for sample in samples)


def test_a_neighbour_is_busy_only_as_long_as_it_is_measured(folder, monkeypatch):
    started = []
    popen = interpreter.subprocess.Popen
    monkeypatch.setattr(
        interpreter.subprocess,
        "Popen",
        lambda *given: started.append(popen(*given)) or started[-1],
    )
    time_tool(TOOLS[0], CALLS[0], folder, 1, busy=True)
    assert [process.returncode for process in started] == [-9]


def rows():
    return [
        {
            "call": call.name,
            "tool": tool,
            "seconds": seconds * (1 + n),
            "quiet": n < 2,
            "own_bytes": 2_000_000_000,
            "stored_bytes": 1_000_000_000,
            "busy_seconds": 3 * seconds,
        }
        for call, seconds in zip(CALLS, (0.01, 0.2, 0.04, 0.3), strict=True)
        for n, tool in enumerate(TOOLS)
    ]


def test_figures_of_the_whole_model_are_sums_of_what_was_measured():
    measured = rows()
    model = {"num_hidden_layers": 36, "vision_config": {"num_hidden_layers": 27}}
    derived = summarize(measured, 1e10, 500_000_000, model)
    assert derived["seconds_per_token"] == pytest.approx(36 * 0.01 + 0.04)
    assert derived["seconds_per_prompt"] == pytest.approx(2 * 36 * 0.2 + 0.04)  # 64 + 54 tokens
    assert derived["seconds_per_view_at_most"] == pytest.approx(27 * 0.3)
    ours = [row for row in measured if row["tool"] == TOOLS[0]]
    assert [row["bound_seconds"] for row in ours] == pytest.approx([0.15, 0.15, 0.1, 0.1])
    assert [row["busy_to_quiet"] for row in ours] == pytest.approx([3] * 4)
    table = interpreter_table({"rows": measured, "derived": derived})
    assert "| head | 40.0 | 80.0 | 120.0 * | 100.0 | 3.0 × | 2.00 |" in table
    assert "Derived for the whole model, not measured: 0.40 s per token, 14.4 s" in table


def test_no_rounds_are_refused_before_anything_is_written(capsys):
    assert main(["--rounds", "0"]) == 2
    assert "--rounds 0" in capsys.readouterr().err
