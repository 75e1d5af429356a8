"""Runs coremltools' tests of operations with the plugin, in a process of its own: it changes what
`MLModel.predict` is."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

INI = Path(__file__).with_name("apple.ini")  # instead of the options of our own tests
# ML Programs only, and in single precision too: half precision is compared within 0.5.
VARIABLES = {"PYMIL_TEST_TARGETS": "mlprogram", "INCLUDE_MIL_FP32_UNIT_TESTS": "1"}


def tests_folder() -> Path:
    """The folder of the tests in the installed coremltools."""
    package = importlib.util.find_spec("coremltools").submodule_search_locations[0]
    return Path(package) / "converters/mil/mil/ops/tests"


def suite_files(parts=()):
    """The files of `parts`, all by default, as paths within the folder of the tests."""
    folder, paths = tests_folder(), []
    for part in parts or [""]:
        whole = folder / part
        found = sorted(whole.rglob("test_*.py")) if whole.is_dir() else [whole]
        paths += [path.relative_to(folder).as_posix() for path in found]
    return paths


def run_suite(report, parts=(), *, sample=None, quiet=True, timeout=None):
    """Run `parts` of the suite (all by default), with `sample` one case of every Nth function; the
    outcome of each case goes to `report`. Returns the process, with what it printed if `quiet`."""
    paths = [str(tests_folder() / part) for part in parts or [""]]
    options = ["--apple-sample", str(sample)] if sample else []
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", str(INI), "--rootdir", str(tests_folder())),
            *("-p", "tests.apple.plugin", "--apple-report", str(report), *options, *paths),
        ],
        cwd=ROOT,
        env={**os.environ, **VARIABLES, "PYTHONPATH": str(ROOT)},
        capture_output=quiet,
        text=True,
        timeout=timeout,
        check=False,
    )
