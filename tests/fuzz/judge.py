"""One case in a process of its own, with limits, and what became of it."""

import contextlib
import importlib
import logging
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.kinds import KINDS, WRONG

logging.disable(logging.WARNING)  # of coremltools: what it lacks away from macOS
# What the commands import late, imported once instead of in each child.
for name in (
    *("av", "numba", "onnxruntime", "export.backends.onnx.model", "export.quant.kmeans"),
    *("coremltools.converters.mil", "export.backends.coreml.package", "mobile_runtime.model.onnx"),
    *("mobile_runtime.engines.mil.engine", "mobile_runtime.model.static_vision"),
):
    importlib.import_module(name)

SECONDS = 30  # of computing, whatever else the machine does
PATIENCE = 300  # seconds by the clock, for what hangs without computing
MEMORY = 1 << 30  # beyond what the process had before the case
GRAPH_MEMORY = 9 << 28  # the same for graphs, whose values may take 2 GB as documented
ADDRESSES = 8 << 30
MAX_STDERR = 3000  # characters of one sentence, with what was printed before
_TRACEBACK = 70
GOOD = ("refused", "ok")


@dataclass(frozen=True)
class Verdict:
    """`name`: refused, ok, accepted, wrong, traceback, crash, hang, memory, long; `seconds` of
    computing, and the memory beyond what the process had before."""

    name: str
    seconds: float
    megabytes: int
    stderr: str


def judge(kind, case, base):
    """Run `case` in a forked child."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        errors = Path(folder) / "stderr"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        child = os.fork()
        if child == 0:
            _run_and_exit(kind, case, base, Path(folder), errors)
        status, usage, hung = _wait(child)
        seconds = usage.ru_utime + usage.ru_stime
        text = errors.read_text(encoding="utf-8", errors="replace") if errors.exists() else ""
    grown = (usage.ru_maxrss - before) << 10
    limit = GRAPH_MEMORY if kind in ("program", "onnx") else MEMORY
    name = "hang" if hung else _name(kind, status, text, grown > limit)
    return Verdict(name, seconds, max(0, grown) >> 20, text[-4000:])


def _name(kind, status, text, is_large):
    if os.WIFSIGNALED(status):
        return "crash"
    code = os.WEXITSTATUS(status)
    names = {0: "ok", 2: "refused", WRONG: "wrong", _TRACEBACK: "traceback"}
    name = names.get(code, "crash")
    if name == "ok" and KINDS[kind].must_refuse:
        name = "accepted"
    if name in GOOD and is_large:
        return "memory"
    return "long" if name in GOOD and len(text) > MAX_STDERR else name


def _wait(child):
    deadline = time.monotonic() + PATIENCE
    while _computed(child) < SECONDS and time.monotonic() < deadline:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage, False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage, True


def _computed(process):
    """Seconds of computing of a process that was not waited for yet, and of its ended children."""
    numbers = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, numbers[11:15])) / os.sysconf("SC_CLK_TCK")  # utime, stime, of children


def _run_and_exit(kind, case, base, folder, errors):
    code = _TRACEBACK
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = KINDS[kind].run(case, base, folder / "work" if _made(folder / "work") else folder)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 2
    except BaseException:  # a PanicException is none of Exception
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _made(folder):
    folder.mkdir()
    return True
