"""Folders that are written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobile_runtime.bundle import InputError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, which becomes `target` at the end; an error leaves nothing.

    `InputError` where no folder can be made, `OSError` if there is a `target` by then.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        begun = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"{target} cannot be made ({error.strerror}); name a folder within one that can be "
            "written to."
        ) from error
    try:
        yield begun
        begun.chmod(0o755)
        begun.rename(target)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
