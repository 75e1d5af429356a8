"""Reports of the Swift package's self-test: what is shown, what is refused."""

import io
import json

import pytest
from rich.console import Console

from mobile_runtime.errors import InputError
from validation.cli import main
from validation.parity.device_report import judge, read_device_report, read_floors


def stage(name, unit="gpu", **fields):
    whole = {"stage": name, "unit": unit, "seconds": 1.5, "count": 3, "note": ""}
    return {name: value for name, value in (whole | fields).items() if value is not None}


@pytest.fixture
def report():
    """A whole report."""
    return {
        "version": 1,
        "device": "iPad16,3",
        "system": "Version 18.4",
        "model": "minicpmv-4.5",
        "recipe": "int4",
        "manifest_sha256": "ab" * 32,
        "available_bytes": 6_000_000_000,
        "peak_bytes": 4_500_000_000,
        "stages": [
            stage("preprocessing", None, decibels="inf"),
            stage("vision_encoder", "neural_engine", decibels=31.25),
            stage("vision_encoder", decibels=60.5),
            stage("resampler", decibels="nan"),
            stage("logits", count=0, failure="decoder does not open."),
            stage("greedy_tokens", agreement=0.75, count=48),
        ],
        "placements": [
            {
                "package": "vision_encoder",
                "unit": "gpu",
                "planned_share": 0.97,
                "load_seconds": 2.0,
                "seconds_per_call": 0.25,
                "passed_over": ["neural_engine: a call took 40 s."],
            }
        ],
    }


@pytest.fixture
def write(tmp_path):
    """Write a value as a JSON file; gives its path."""

    def write(value, name="device.json"):
        path = tmp_path / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    return write


def shown(report, floors=None):
    out = io.StringIO()
    report.print(Console(file=out, width=200), floors)
    return out.getvalue()


def test_every_stage_and_package_is_shown(report, write):
    text = shown(read_device_report(write(report)))
    for piece in ("iPad16,3", "31.2 dB", "exact", "75.0% of the tokens", "0.500 s × 3", "97%"):
        assert piece in text
    assert "decoder does not open." in text
    assert "neural_engine: a call took 40 s." in text
    assert "250.0 ms" in text


def test_stages_are_judged_by_the_figures_of_the_bundle(report, write):
    parity = {
        "stages": [
            {"stage": "vision_encoder", "checkpoint_db": 61.0},
            {"stage": "resampler", "checkpoint_db": "inf"},
            {"stage": "end_to_end", "checkpoint_db": 20.0},
        ]
    }
    floors = read_floors(write(parity, "parity.json"))
    assert floors == {"vision_encoder": 58.0, "logits": 17.0}
    stages = read_device_report(write(report)).stages
    assert [judge(found, floors) for found in stages] == [
        *("passed", "failed", "passed", "failed", "failed", "measured")
    ]
    assert [judge(found, {}) for found in stages] == [
        *("passed", "measured", "measured", "failed", "failed", "measured")
    ]


def test_a_host_without_picture_files_has_not_failed(report, write):
    report["stages"] = [stage("preprocessing", None, count=0, note="no reader")]
    read = read_device_report(write(report))
    assert judge(read.stages[0], {}) == "not run"
    assert not read.failed()


def test_command_writes_the_page_and_says_whether_a_stage_failed(report, write, capsys):
    report["device"] = "<script>"
    path = write(report)
    assert main(["device-report", str(path)]) == 1
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    assert capsys.readouterr().out.splitlines()[-1] == str(path.with_suffix(".html"))
    assert "31.2 dB" in page and "&lt;script&gt;" in page and "<script>" not in page
    report["stages"] = report["stages"][:3]
    assert main(["device-report", str(write(report))]) == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, "no self-test report of version 1"),
        ({"device": 3}, "device = 3"),
        ({"peak_bytes": -1}, "peak_bytes = -1"),
        ({"available_bytes": True}, "available_bytes = True"),
        ({"stages": {}}, "stages = {}"),
        ({"stages": [stage("tower")]}, "stage 'tower'"),
        ({"stages": [stage("logits", "npu")]}, "unit 'npu'"),
        ({"stages": [stage("logits", decibels="high")]}, "decibels = 'high'"),
        ({"stages": [stage("logits", seconds="inf")]}, "seconds"),
        ({"stages": [stage("logits", agreement=1.5)]}, "agreement 1.5"),
        ({"placements": [{"package": "a", "unit": "cpu", "load_seconds": 0}]}, "passed_over"),
    ],
)
def test_a_wrong_file_is_one_sentence(change, text, report, write, capsys):
    path = write(report | change)
    with pytest.raises(InputError, match=r"\.$") as raised:
        read_device_report(path)
    assert text in str(raised.value)
    assert main(["device-report", str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_no_report_at_all_is_one_sentence(content, tmp_path):
    path = tmp_path / "device.json"
    path.write_text(content, encoding="utf-8")
    for read in (read_device_report, read_floors):
        with pytest.raises(InputError):
            read(path)
    with pytest.raises(InputError, match=r"has no absent\.json; get the file again"):
        read_device_report(tmp_path / "absent.json")


def test_a_parity_report_without_figures_is_refused(write):
    with pytest.raises(InputError, match="no figures"):
        read_floors(write({"stages": [{"stage": "resampler", "checkpoint_db": None}]}))
