"""What a process and its children take is summed, each byte once."""

import subprocess
import sys

import pytest

from benchmarks.process_tree import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

_CHILD = """
import os, sys, time
block = bytearray(os.urandom(1)) * 60_000_000
if sys.argv[1:]:
    import subprocess
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
    time.sleep(0.3)
else:
    with open(os.environ["TARGET"], "wb") as file:
        file.write(block)
        os.fsync(file.fileno())
    time.sleep(0.4)
"""


def test_memory_and_traffic_of_a_parent_and_its_child(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, _CHILD], env={"TARGET": str(tmp_path / "file")}
    )
    with Watch(child.pid) as watch:
        child.wait()
    assert 120e6 < watch.usage.own < 200e6
    assert watch.usage.written < 1.5 * 60e6  # 0 where the file system is in memory
