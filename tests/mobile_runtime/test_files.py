"""Folders that are written whole or not at all, whatever ends the process."""

import os
import signal
import subprocess
import sys

import pytest

from mobile_runtime.files import new_folder

WRITE = """
import sys, time
from pathlib import Path
from mobile_runtime.files import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print(flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", ["resampler-0123", "*[a]", "n" * 240])
def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(name, tmp_path):
    target = tmp_path / "cache" / name
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, target], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for writer in writers:
        writer.stdout.readline()
    living, dead = writers
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    try:
        with new_folder(target) as folder:
            (folder / "whole").write_text("y")
        left = sorted(path.name for path in target.parent.iterdir())
        assert len(left) == 2 and target.name in left
        assert [f"-{living.pid}." in name for name in left if name != target.name] == [True]
        assert [path.name for path in target.iterdir()] == ["whole"]
    finally:
        living.kill()
        living.wait()
        for writer in writers:
            writer.stdout.close()


def test_another_folder_beside_it_stays(tmp_path):
    for name in ("a-b", ".a-b", f".a-{os.getpid()}", ".a-x.y"):
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "a"):
        pass
    assert len(list(tmp_path.iterdir())) == 5
