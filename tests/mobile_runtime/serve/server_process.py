"""A server in a process of its own, as a user starts it."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from tests.paths import ROOT


@dataclass
class Running:
    """A server that answers; `root` is its URL, `key` the one that it printed."""

    process: subprocess.Popen
    root: str
    key: str | None

    @property
    def api(self):
        return f"{self.root}/v1"


@contextmanager
def running_server(bundle, *options, command="serve", **variables):
    """`python -m mobile_runtime serve BUNDLE` on a free port; killed at the end if it still runs.
    `bundle` may be a list of them."""
    bundles = bundle if isinstance(bundle, list) else [bundle]
    words = [sys.executable, "-m", "mobile_runtime", command, *bundles, "--port", "0", *options]
    process = subprocess.Popen(
        list(map(str, words)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell ignore Ctrl-C, and so would what they start.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        key, line = None, process.stdout.readline()
        if line.startswith("key: "):
            key, line = line.removeprefix("key: ").strip(), process.stdout.readline()
        assert line.startswith("http://"), process.communicate(timeout=30)[1]
        yield Running(process, re.match(r"http://[^/]+", line)[0], key)
    finally:
        process.kill()
        process.communicate(timeout=30)
