"""A short run of the fuzzer, and all that it has found before."""

import pytest

from tests.fuzz.edits import edit_bytes, edit_json
from tests.processes import run_python


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    """Run the fuzzer in a process of its own: it forks, which threads would not survive."""
    base = tmp_path_factory.mktemp("fuzz") / "base"

    def run(*options):
        fixed = ["-m", "tests.fuzz", "--base", base, "--minutes", "30"]
        return run_python(*fixed, *options, OMP_NUM_THREADS="1")

    def kills(*options):
        return run_python("-m", "tests.fuzz.kills", "--base", base, *options, OMP_NUM_THREADS="1")

    run.kills = kills
    return run


def test_what_was_found_is_mended(fuzz):
    done = fuzz("--finds")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("refused") >= 5


def test_two_of_each_kind_are_refused_or_work(fuzz):
    done = fuzz("--rounds", "2", "--seeds", "0")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_killed_chats_leave_nothing_and_go_on(fuzz):
    done = fuzz.kills("--kinds", "chat", "--kills", "2")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "finished 2, orphans 0, other results 0" in done.stdout


def test_edits_change_what_they_say():
    data = bytes(range(100))
    assert edit_bytes(data, ["cut", 0.5]) == data[:50]
    assert edit_bytes(data, ["flip", 0.1, 0]) == data[:10] + b"\x0b" + data[11:]
    assert edit_bytes(data, ["fill", 0.9, 4, 7]) == data[:90] + b"\7" * 4 + data[94:]
    changed = edit_json(b'{"a": [1, 2]}', ["set", ["a", 1], float("nan")])
    assert changed.split() == [b"{", b'"a":', b"[", b"1,", b"NaN", b"]", b"}"]


SLOW = """
import pathlib, sys, time
from tests.fuzz import judge as judges
from tests.fuzz.kinds import Kind

def spin(case, base, folder):
    while True:
        pass

judges.KINDS.update(spin=Kind(None, spin), sleep=Kind(None, lambda *_: time.sleep(0.6) or 0))
judges.SECONDS = 0.3
names = [judges.judge(kind, None, pathlib.Path()).name for kind in ("spin", "sleep")]
judges.PATIENCE = 0.2
print(*names, judges.judge("sleep", None, pathlib.Path()).name)
"""


def test_a_case_hangs_by_the_time_that_it_computes():
    """Another busy process takes the clock's seconds, not its own; but none may wait for ever."""
    done = run_python("-c", SLOW, OMP_NUM_THREADS="1")
    assert done.stdout.split() == ["hang", "ok", "hang"], done.stderr[-3000:]
