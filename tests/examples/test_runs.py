"""Runs of the pocket model's training: begun, stopped, resumed, gone on from weights, refused."""

import csv
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from examples.pocket import train
from examples.pocket.curriculum import (
    CURRICULA,
    GENTLY,
    GPU_STAGES,
    STAGES,
    Schedule,
    fitting_before,
    stage_named,
)
from examples.pocket.feed import Feed
from examples.pocket.options import parse_options
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.locate import DEFAULT_CHECKPOINT
from export.checkpoint.source import check_tensors
from export.models.tensors import tensor_shapes
from export.releases import load_config
from validation.questions import fonts


def test_a_run_trains_stops_and_resumes(tmp_path, capsys, monkeypatch):
    """Two short sittings on two workers: the losses are logged, the weights can be exported."""
    monkeypatch.setattr(train, "_BUILD_QUESTIONS", 4)  # the tokenizer's words are of no matter here
    output = tmp_path / "run"
    base = ["--output", str(output), "--workers", "2"]
    assert train.main([*base, "--minutes", "0.1"]) == 0
    assert capsys.readouterr().out.strip() == str(output / "checkpoint")
    assert train.main([*base, "--minutes", "0.1"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert train.main([*base, "--minutes", "0.15", "--resume"]) == 0
    check_tensors(
        Checkpoint(output / "checkpoint"),
        tensor_shapes(load_config(output / "checkpoint")),
        "it",
        "whole",
    )
    with (output / "losses.csv").open(newline="") as file:
        assert next(csv.reader(file))[:2] == ["step", "seconds"]
    assert (output / "losses.png").stat().st_size > 1000
    assert json.loads((output / "checkpoint/release.json").read_text())["license"] == "Apache-2.0"


def test_a_run_goes_on_from_weights(tmp_path, capsys):
    """From the stage that is asked for, with its tokenizer, telling what it began with."""
    output = tmp_path / "run"
    base = ["--output", str(output), "--workers", "1", "--tasks", "printed_text"]
    begin = ["--weights", str(DEFAULT_CHECKPOINT), "--stage", "talking"]
    assert train.main([*base, *begin, "--minutes", "0.2"]) == 0
    given, trained = (
        load_file(c / "model.safetensors") for c in (DEFAULT_CHECKPOINT, output / "checkpoint")
    )
    assert given.keys() == trained.keys()
    assert not torch.equal(given["llm.lm_head.weight"], trained["llm.lm_head.weight"])
    facts = json.loads((output / "checkpoint/training.json").read_text())
    assert facts["first_stage"] == "talking"
    assert facts["began_with"] == json.loads((DEFAULT_CHECKPOINT / "training.json").read_text())
    assert facts["drawn_per_worker"] > facts["began_with"]["drawn_per_worker"]
    for name in ("tokenizer.json", "config.json"):
        assert (output / "checkpoint" / name).read_text() == (DEFAULT_CHECKPOINT / name).read_text()


def test_a_schedule_that_begins_later_fits_the_probes_first():
    seeing = stage_named("seeing")
    schedule = Schedule(3000.0).from_weights("seeing")
    assert schedule.fitting == 100.0
    assert schedule.stage(99.0) == fitting_before(STAGES) and schedule.rate(99.0) == 1.0
    assert schedule.stage(100.0) is seeing and schedule.rate(100.0) < 0.02
    assert schedule.share(100.0) == 0.42 and schedule.share(3000.0) == 1.0
    assert Schedule(9000.0).from_weights("seeing").fitting == 180.0
    whole = Schedule(1000.0)
    assert [whole.share(seconds) for seconds in (0.0, 250.0)] == [0.0, 0.25]


@pytest.mark.parametrize("stages", CURRICULA.values(), ids=list(CURRICULA))
def test_a_run_that_begins_with_weights_moves_them_gently(stages):
    fresh = Schedule(1000.0, stages=stages)
    going_on = replace(fresh, fitting=1e-6)
    seconds = [0.1 * n for n in range(1, 10000)]
    for stage in stages:
        times = [t for t in seconds if fresh.stage(t) is stage]
        rates = [going_on.rate(t) for t in times]
        top = max(rates)
        assert top == pytest.approx(GENTLY * stage.peak, rel=0.02)
        falling = rates[rates.index(top) :]
        assert len(falling) > 0.9 * len(rates) and falling == sorted(falling, reverse=True)


def test_a_state_that_cannot_be_resumed_is_one_sentence(tmp_path, capsys):
    state = tmp_path / "state.safetensors"
    resume = ["--output", str(tmp_path), "--resume"]
    state.write_bytes(b"no safetensors")
    for flags in (["--weights", str(DEFAULT_CHECKPOINT)], ["--stage", "whole"]):
        assert train.main([*resume, *flags]) == 2
        assert "leave --weights and --stage out" in capsys.readouterr().err
    assert train.main(resume) == 2
    assert f"{state} cannot be read" in capsys.readouterr().err
    save_file({"weight.model.llm.lm_head.weight": torch.zeros(2)}, state, {"facts": "{}"})
    assert train.main(resume) == 2
    error = capsys.readouterr().err
    assert "of an earlier recipe" in error and len(error.splitlines()) == 1


def test_a_device_that_cannot_be_is_one_sentence(tmp_path, capsys, monkeypatch):
    """No GPU, and a stage that runs on a GPU do not have."""
    flags = ["--output", str(tmp_path / "run"), "--device", "cuda"]
    for present, words in ((False, "--device cpu"), (True, "characters, seeing, whole")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert train.main([*flags, "--weights", str(DEFAULT_CHECKPOINT), "--stage", "talking"]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_missing_fonts_are_told_before_workers_need_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fonts, "FACES", (("font_nowhere", "Regular.ttf"),) * len(fonts.FACES))
    fonts.load_face.cache_clear()
    flags = ["--output", str(tmp_path / "run"), "--weights", str(DEFAULT_CHECKPOINT)]
    assert train.main(flags) == 2
    error = capsys.readouterr().err
    assert "font-nowhere" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_batches_are_drawn_beside_for_the_stage_that_is_asked_for(tmp_path):
    """By another process; kept, and drawn ahead of the next stage."""
    options = parse_options(["--output", str(tmp_path), "--workers", "1"], None)
    shutil.copytree(DEFAULT_CHECKPOINT, options.checkpoint)
    stages = tuple(replace(stage, batch=2) for stage in GPU_STAGES)
    schedule = Schedule(60.0, stages=stages).from_weights("characters")
    feed = Feed(options, schedule, drawn=100, device=torch.device("cpu"))
    for seconds, groups, prompts in ((0, True, False), (3, False, False), (59, True, True)):
        batch = feed.batch(schedule.stage(seconds), seconds)
        assert batch.size == 2
        assert [part is not None for part in (batch.groups, batch.prompts)] == [groups, prompts]
    assert feed.drawn >= 100 + 3 * 2
    feed.close()


def test_weights_of_another_model_are_refused_before_training(tmp_path, capsys):
    """Another configuration, and a checkpoint that does not tell how it was trained."""
    folder = tmp_path / "other"
    shutil.copytree(DEFAULT_CHECKPOINT, folder)
    flags = ["--output", str(tmp_path / "run"), "--weights", str(folder)]
    (folder / "training.json").unlink()
    assert train.main(flags) == 2
    assert "training.json" in capsys.readouterr().err
    config = json.loads((folder / "config.json").read_text()) | {"query_num": 16}
    (folder / "config.json").write_text(json.dumps(config))
    assert train.main(flags) == 2
    error = capsys.readouterr().err
    assert "no pocket model" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "training.json"])
def test_a_truncated_file_beside_the_weights_is_one_sentence(name, tmp_path, capsys):
    folder = tmp_path / "cut"
    shutil.copytree(DEFAULT_CHECKPOINT, folder)
    (folder / name).write_bytes((DEFAULT_CHECKPOINT / name).read_bytes()[:100])
    assert train.main(["--output", str(tmp_path / "run"), "--weights", str(folder)]) == 2
    error = capsys.readouterr().err
    assert name in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--minutes", "0"],
        ["--workers", "0"],
        ["--resume"],
        ["--tasks", "thinking"],
        ["--stage", "whole"],
        ["--weights", "nowhere"],
    ],
)
def test_mistakes_are_one_sentence(flags, tmp_path, capsys):
    assert train.main(["--output", str(tmp_path / "run"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1
