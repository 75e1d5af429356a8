"""Folders that are written whole or not at all, whatever ends the process."""

import ctypes
import os
import signal
import subprocess
import sys

import pytest

from mobile_runtime.files import has_ended, new_folder, this_process

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


class Kernel:
    """The part of Windows' kernel32 that tells whether a process runs."""

    def __init__(self, codes, denied):
        self.codes, self.open, self.error = codes, [], 0

        def open_process(access, inherits, process):
            assert access == 0x1000 and not inherits
            self.error = 5 if process in denied else 87  # ERROR_INVALID_PARAMETER
            if process not in codes:
                return None
            self.open.append(process)
            return process

        self.OpenProcess = open_process  # a function, whose type of result is set

    def GetExitCodeProcess(self, handle, code):
        code._obj.value = self.codes[handle.value]
        return 1

    def CloseHandle(self, handle):
        self.open.remove(handle.value)
        return 1


def test_on_windows_a_process_is_asked_for_without_a_signal(monkeypatch):
    """os.kill(process, 0) would send Ctrl-C there."""
    kernel = Kernel(codes={11: 259, 12: 0, 13: 1}, denied=[14])
    space = this_process().rpartition("-")[0]
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, use_last_error: kernel, raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: kernel.error, raising=False)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    ended = {process: has_ended(f"{space}-{process}") for process in (11, 12, 13, 14, 15)}
    monkeypatch.undo()
    assert ended == {11: False, 12: True, 13: True, 14: False, 15: True}
    assert kernel.open == []


def test_a_process_has_ended_when_it_is_waited_for():
    space = this_process().rpartition("-")[0]
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not has_ended(f"{space}-{child.pid}")
    child.communicate()
    assert has_ended(f"{space}-{child.pid}")
    assert has_ended(f"{space}-x") and has_ended(f"{space}-{10**30}")
    assert not has_ended(f"elsewhere-{child.pid}")
