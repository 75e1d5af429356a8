"""Folders that results are made in before they are put in place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(target: Path, kind: str) -> Iterator[Path]:
    """A new folder beside `target`, hidden, that vanishes at the end unless it is moved away."""
    folder = target.with_name(f".{target.name}.{kind}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
