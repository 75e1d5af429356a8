"""The machine and versions of a measurement, and the time and memory of a process."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.process_tree import Watch

_PACKAGES = ("numpy", "numba", "coremltools", "coreai-opt", "torch")
_ERROR_CHARACTERS = 2000


def describe_machine() -> dict[str, Any]:
    """Machine, load, versions and commit, as every report of a benchmark holds them."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "machine": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _PACKAGES},
        "commit": commit.stdout.strip() or "none",
    }


def version(package: str) -> str:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.machine()


class Clock:
    """Seconds since it was made. Those of the CPU hardly depend on what else the machine does."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()

    def elapsed(self) -> dict[str, float]:
        """Wall clock, and CPU time of this process and of those that it waited for."""
        return {"wall": time.perf_counter() - self._wall, "cpu": _cpu_seconds() - self._cpu}


def _cpu_seconds() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


class Child:
    """`python -m module --child …`, running in a fresh process."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, "--child", *arguments]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by result()
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self.pid = self._process.pid

    def result(self) -> Any:
        """Wait for its end; return the JSON of its last line. Raises SystemExit if it failed."""
        output, _ = self._process.communicate()
        with self._errors as errors:
            if self._process.returncode:
                errors.seek(0)
                text = errors.read()[-_ERROR_CHARACTERS:]
                raise SystemExit(f"{' '.join(self._command)} failed:\n{text}")
        return json.loads(output.splitlines()[-1])


def run_child(module: str, *arguments: str) -> dict[str, Any]:
    """Return what a `Child` prints, with the `usage` of the process and all that it started."""
    child = Child(module, *arguments)
    with Watch(child.pid) as watch:
        result = child.result()
    return {**result, "usage": asdict(watch.usage)}
