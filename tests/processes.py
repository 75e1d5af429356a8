"""Programs of the repository in processes of their own."""

import os
import subprocess
import sys

from tests.paths import ROOT


def run_python(*arguments, timeout=None, **variables):
    """Run Python on the repository's code with these arguments and variables of the environment;
    returns the process with what it printed as text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
