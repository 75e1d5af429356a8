"""Suites on a tiny bundle: figures by hand, runs that go on, results that may be compared."""

import json

import numpy as np
import pytest
from PIL import ImageChops

from export.backends import BACKENDS
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from validation.benchmark import run as benchmark_run
from validation.benchmark.documents import KINDS, chart, page, receipt
from validation.benchmark.suites import STRETCH, SUITES, digest
from validation.cli import main
from validation.commands import benchmark as command
from validation.quality.measure import reference_logits
from validation.reference.reference import Reference
from validation.sources import open_checkpoint


@pytest.fixture(scope="module")
def bundle(random_checkpoint, tmp_path_factory):
    config = ExportConfig(
        checkpoint=str(random_checkpoint),
        output=tmp_path_factory.mktemp("benchmarked"),
        quant="none",
        context_length=640,
    )
    return export_bundle(config, BACKENDS["onnx"], Progress(quiet=True))


@pytest.fixture
def small(monkeypatch):
    """The suite `text` with a text and lists of two lengths, one of which is too long."""
    names = ("licences", "digits in 128 tokens", "dates in 2048 tokens")
    suite = {name: SUITES["text"][name] for name in names}
    monkeypatch.setattr("validation.benchmark.suites.SUITES", {"text": suite, "quick": suite})


@pytest.fixture
def measure(bundle, random_checkpoint, tmp_path):
    def call(name="a.json", limit=2, *options):
        path = tmp_path / name
        flags = ["--suite", "text", "--limit", str(limit), "--precision", "fp32"]
        where = ["--checkpoint", str(random_checkpoint), "--json", str(path)]
        code = main(["benchmark", str(bundle), *flags, *where, *options])
        return code, path

    return call


def test_the_command_knows_all_suites():
    assert set(command.SUITES) == set(SUITES)


def test_figures_are_those_by_hand_and_the_bundle_s_the_checkpoint_s(
    small, measure, random_checkpoint, capsys
):
    code, path = measure()
    assert code == 0
    result = json.loads(path.read_text())
    figures = result["figures"]
    source = open_checkpoint(str(random_checkpoint))
    reference = Reference(source.config, source.checkpoint)
    bits = size = 0
    passages = SUITES["text"]["licences"].make(source.chat_format, 2)
    assert [len(p.targets) for p in passages] == [STRETCH, STRETCH]
    for passage in passages:
        rows = reference_logits(reference, passage).astype(np.float64)
        rows -= np.log2(np.exp2(rows / np.log(2)).sum(-1, keepdims=True)) * np.log(2)
        bits -= rows[np.arange(STRETCH), passage.targets].sum() / np.log(2)
        size += len(source.chat_format.tokenizer.decode(passage.targets.tolist()).encode())
    licences = figures["licences"]
    assert licences["checkpoint"]["value"] == pytest.approx(bits / size, rel=1e-6)
    assert licences["bundle"]["value"] == pytest.approx(bits / size, rel=1e-4)
    assert abs(licences["difference"]["value"]) < 1e-3
    assert figures["digits in 128 tokens"]["difference"]["p"] == 1
    reasons = result["not_run"]
    assert "the context holds 640" in reasons["bundle"]["dates in 2048 tokens"]
    assert reasons["checkpoint"] == {}
    assert result["models"]["bundle"]["bundle_sha256"]
    assert "not run, it takes" in " ".join(capsys.readouterr().out.split())
    assert not list(path.parent.glob("*.part"))


def test_a_run_that_was_stopped_goes_on(small, measure, monkeypatch):
    code, whole = measure("whole.json")
    judged, judge = [], benchmark_run.judge

    def stop(candidate, task, number, item):
        if len(judged) == 2:
            raise KeyboardInterrupt
        judged.append((candidate.name, task, number))
        return judge(candidate, task, number, item)

    monkeypatch.setattr(benchmark_run, "judge", stop)
    code, path = measure("again.json")
    assert code == 130 and not path.exists()
    part = path.with_name("again.json.part")
    assert len(part.read_text().splitlines()) == 3
    with part.open("a") as file:
        file.write('[{"task": "licen')  # the power went out

    def note(*arguments):
        judged.append((arguments[0].name, *arguments[1:3]))
        return judge(*arguments)

    monkeypatch.setattr(benchmark_run, "judge", note)
    code, path = measure("again.json")
    assert code == 0 and len(judged) == len(set(judged))
    assert json.loads(path.read_text()) == json.loads(whole.read_text())


def test_what_another_run_began_is_not_gone_on_with(small, measure, tmp_path, capsys):
    (tmp_path / "a.json.part").write_text('{"protocol": {}}\n')
    assert measure()[0] == 2
    assert "holds the beginning of another run" in capsys.readouterr().err


def test_only_results_of_one_protocol_are_compared(small, measure, capsys):
    (_, first), (_, second), (_, other) = (
        measure(),
        measure("b.json", 2, "--bundle-only"),
        measure("c.json", 1, "--bundle-only"),
    )
    capsys.readouterr()
    assert main(["benchmark", "--compare", str(first), str(second)]) == 0
    assert "licences" in capsys.readouterr().out
    assert main(["benchmark", "--compare", str(first), str(other)]) == 2
    assert "were not made alike: limit, items differ" in capsys.readouterr().err
    first.write_text('{"protocol": {}}')
    assert main(["benchmark", "--compare", str(first), str(second)]) == 2
    assert "no result of a benchmark" in capsys.readouterr().err


def test_without_the_checkpoint_the_bundle_still_runs(small, bundle, capsys):
    assert main(["benchmark", str(bundle), "--suite", "text", "--limit", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "checkpoint, all tasks: not run" in said and "give it with --checkpoint" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "there is no bundle to run"), (["x", "--limit", "0"], "--limit is 0; give 1 or more")],
)
def test_what_cannot_run_is_refused(arguments, said, capsys):
    assert main(["benchmark", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("draw", KINDS)
def test_a_document_is_the_same_for_the_same_seed_only(draw):
    one, again, other = (draw(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert digest([one]) == digest([again]) != digest([other])
    assert one.turns[-1].answer


def test_documents_show_what_they_say():
    """Rows of a receipt and lines of a page are as many as bands of ink; a bar is as high as the
    value that is asked for says."""
    for draw in (page, receipt):
        question = draw(np.random.default_rng(5))
        ink = np.asarray(question.pictures[0].image.convert("L")).min(axis=1) < 128
        bands = int((np.diff(ink.astype(int)) == 1).sum())
        assert bands == len(question.turns[0].answer.splitlines())
    lines = receipt(np.random.default_rng(6)).turns[0].answer.splitlines()
    *goods, total = (round(100 * float(line.split()[1])) for line in lines)
    assert sum(goods) == total


def test_the_bar_that_is_asked_for_is_as_high_as_its_value(monkeypatch):
    from validation.benchmark import documents

    drawn = {}
    bars = documents._bars
    monkeypatch.setattr(
        documents,
        "_bars",
        lambda names, values, face: (
            drawn.update(zip(names, values, strict=True)) or bars(names, values, face)
        ),
    )
    question = chart(np.random.default_rng(7))
    (turn,) = question.turns
    name = turn.question.split(" in the chart")[0].split()[-1]
    assert str(drawn[name]) == turn.answer
    low, high = (
        bars(["AA"], [value], 0).image for value in (drawn[name], min(100, drawn[name] + 10))
    )
    box = ImageChops.difference(low, high).getbbox()
    assert drawn[name] == 100 or box[3] - box[1] == 28  # (360 − 50 − 30) / 10 pixels for ten
