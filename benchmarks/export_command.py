"""`python -m export` within a benchmark."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path


def export_quietly(backend: str, checkpoint: Path, folder: Path, *flags: str) -> Path:
    """Export to the new `folder`, without the cache and without output; return the bundle."""
    from export.cli import main

    where = ["--checkpoint", str(checkpoint), "--output", str(folder)]
    arguments = [backend, *where, *flags, "--no-cache", "--quiet"]
    with contextlib.redirect_stdout(io.StringIO()):
        if main(arguments):
            raise SystemExit(f"python -m export {' '.join(arguments)} failed")
    (bundle,) = folder.iterdir()
    return bundle
