"""`python -m export`: the path on stdout, one sentence on stderr, exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from export import cli, pipeline
from export.cli import main
from mobile_runtime.bundle import read_manifest, verify_files

BUNDLE = "minicpmv-4.5-coreml-int4-fast"


@pytest.fixture
def run(random_checkpoint, tmp_path, capsys):
    """run(*flags) -> (exit code, stdout lines, stderr); a small export unless flags say more."""

    def command(*flags, checkpoint=random_checkpoint):
        given = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
        sizes = ["--context-length", "64", "--prefill-length", "4"]
        fast = ["--quant", "int4-fast", "--output", str(tmp_path / "out")]
        arguments = ["coreml", *fast, *given, *sizes, *flags]
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return command


def test_pocket_model_from_a_process_of_its_own(command_runs):
    """No checkpoint: says what is exported instead, and prints the bundle's path last."""
    for run in command_runs:
        bundle = run.output / "minicpmv-pocket-coreml-int4-fast"
        assert run.stdout.splitlines() == [str(bundle)]
        assert "pocket model" in run.stderr
        manifest = read_manifest(bundle)
        verify_files(bundle, manifest)
        assert (manifest.source.name, manifest.source.license) == ("pocket", "Apache-2.0")
        assert "Apache-2.0" in (bundle / "README.md").read_text(encoding="utf-8")
        assert [path.name for path in run.output.iterdir()] == [bundle.name]


def test_path_is_the_last_line_and_progress_goes_to_stderr(run, tmp_path):
    code, out, err = run()
    assert code == 0
    assert out == [str(tmp_path / "out" / BUNDLE)]
    assert "decoder" in err
    verify_files(Path(out[-1]), read_manifest(Path(out[-1])))


def test_quiet_prints_the_path_alone(run, tmp_path):
    code, out, err = run("--quiet", "--quant", "none")
    assert (code, err) == (0, "")
    assert out == [str(tmp_path / "out/minicpmv-4.5-coreml-none")]


def test_plan_shows_the_packages_and_writes_nothing(run, tmp_path):
    code, out, err = run("--plan")
    assert (code, out) == (0, [])
    for word in ("vision_encoder", "resampler", "decoder", "lm_head", "4-bit lut g16 by kmeans"):
        assert word in " ".join(err.split())
    size = re.search(
        r"reads [\d.]+ GB, writes [\d.]+ GB, about ([\d.]+) GB of memory and \d+ s", err
    )
    assert size and 0.1 < float(size[1]) < 2
    assert not (tmp_path / "out").exists()


def test_progress_says_what_was_at_hand_and_how_much_there_is(run, tmp_path):
    cache = ["--cache", str(tmp_path / "cache")]
    first = run(*cache)[2]
    again = run(*cache, "--overwrite")[2]
    for err, how in ((first, "built"), (again, "taken from the cache")):
        lines = " ".join(err.split())
        for n in range(1, 6):
            assert f"[{n}/5]" in lines
        assert lines.count(how) == 5
        assert "GB of disk free" in lines


def test_flags_reach_the_manifest(run):
    flags = ["--kv-cache", "io", "--override", "lm_head=int8", "--override", "vision_encoder=int6"]
    code, out, _ = run(*flags)
    assert code == 0
    manifest = read_manifest(Path(out[-1]))
    decoding = manifest.decoding
    assert (decoding.context_length, decoding.prefill_length, decoding.kv_cache) == (64, 4, "io")
    assert manifest.recipe["name"] == "int4-fast+lm_head=int8+vision_encoder=int6"
    assert Path(out[-1]).name.endswith("-int4-fast-lm_head-int8-vision_encoder-int6")
    rules = {rule["pattern"]: rule["spec"] for rule in manifest.recipe["rules"]}
    assert rules["llm.lm_head.*"]["bits"] == 8
    assert rules["vpm.*"]["bits"] == 6


def assert_one_sentence(code, out, err, *words):
    assert code == 2
    assert out == []
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in last


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--context-length", "63"], ["--context-length 63", "multiple of 32"]),
        (["--context-length", "0"], ["--context-length 0"]),
        (["--context-length", "32768"], ["--context-length 32768", "16384"]),
        (["--prefill-length", "1"], ["--prefill-length 1", "2 to 64"]),
        (["--prefill-length", "65"], ["--prefill-length 65", "2 to 64"]),
        (["--quant", "int5"], ["no recipe 'int5'", "int4-fast", "auto:4.25bpw"]),
        (["--jobs", "0"], ["--jobs 0", "1 or more"]),
        (["--cache-gb", "-1"], ["--cache-gb -1", "0 or more"]),
        (["--scheduler", "tcp://127.0.0.1:1"], ["tcp://127.0.0.1:1", "tcp://host:8786"]),
        (["--override", "head=int4"], ["head", "lm_head"]),
        (["--override", "lm_head=int5"], ["int5", "int6"]),
        (["--override", "lm_head"], ["PART=PRECISION"]),
        (["--override", "embed_tokens=int4"], ["embed_tokens", "none or int8"]),
    ],
)
def test_bad_flag_is_one_sentence_and_writes_nothing(run, tmp_path, flags, words):
    assert_one_sentence(*run(*flags), *words)
    folder = tmp_path / "out"
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--kv-cache", "ram"],
        ["--context-length", "many"],
        ["--no-such-flag"],
    ],
)
def test_flag_that_does_not_parse_exits_with_2_and_usage(run, flags):
    code, out, err = run(*flags)
    assert (code, out) == (2, [])
    assert "usage:" in err
    assert flags[0] in err or "unrecognized" in err


def test_unknown_backend_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["tflite"])
    assert stop.value.code == 2
    assert "coreml" in capsys.readouterr().err


def test_missing_checkpoint_is_one_sentence(run, tmp_path):
    result = run(checkpoint=tmp_path / "absent")
    assert_one_sentence(*result, "no checkpoint at", "openbmb/MiniCPM-V-4_5")


def test_folder_that_is_no_checkpoint_is_one_sentence(run, tmp_path):
    assert_one_sentence(*run(checkpoint=tmp_path), "config.json")


def test_model_of_another_kind_is_one_sentence(run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert_one_sentence(*run(checkpoint=tmp_path), "MiniCPM-V 4.5")


def test_existing_bundle_is_one_sentence_and_overwrite_replaces_it(run, tmp_path):
    folder = tmp_path / "out" / BUNDLE
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    assert_one_sentence(*run(), "exists already", "--overwrite")
    assert (folder / "mine.txt").read_text() == "mine"
    code, out, _ = run("--overwrite")
    assert (code, out) == (0, [str(folder)])
    assert not (folder / "mine.txt").exists()


def test_output_that_is_a_file_is_one_sentence(run, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert_one_sentence(*run(), str(tmp_path / "out"), "--output")


def test_output_below_a_file_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("a file")
    assert_one_sentence(*run("--output", str(tmp_path / "file/a/b")), "not a folder", "--output")


def test_links_to_nothing_are_noticed_before_anything_is_built(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "build_parts", None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / BUNDLE).symlink_to(tmp_path / "absent")
    assert_one_sentence(*run(), BUNDLE, "a link to nothing", "--output")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    assert_one_sentence(*run("--output", str(tmp_path / "link")), "a link to nothing")


def test_an_output_that_cannot_be_made_is_one_sentence(run):
    assert_one_sentence(*run("--output", "/proc/bundles"), "/proc/bundles cannot be made")


def test_cache_that_is_a_file_is_one_sentence(run, tmp_path):
    (tmp_path / "cache").write_text("a file")
    result = run("--cache", str(tmp_path / "cache"))
    assert_one_sentence(*result, str(tmp_path / "cache"), "--cache")
    assert list((tmp_path / "out").iterdir()) == []


def test_interrupt_says_how_to_go_on(run, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "write_card", interrupt)
    code, out, err = run()
    assert (code, out) == (130, [])
    assert err.strip().splitlines()[-1].startswith("interrupted; run the same command again")
    assert list((tmp_path / "out").iterdir()) == []


def test_bug_keeps_its_traceback(run, monkeypatch):
    def broken(*arguments):
        raise TypeError("a bug")

    monkeypatch.setattr(cli, "export_bundle", broken)
    with pytest.raises(TypeError, match="a bug"):
        run()


def test_converting_loads_no_torch_and_leaves_it_to_others():
    """It would triple the memory of every process of an export."""
    program = (
        "import sys; from export.backends.coreml import _import_coremltools as load; load(); "
        "import coremltools; assert 'torch' not in sys.modules; import torch; print(torch.__name__)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "torch"), done.stderr
