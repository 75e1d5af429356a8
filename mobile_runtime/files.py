"""Folders that are written whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobile_runtime.errors import InputError


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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`, or `InputError` saying what is wrong with the file."""
    if not path.is_file():
        raise InputError(
            f"{path.parent} has no {path.name}; give the folder of a MiniCPM-V 4.5 checkpoint."
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); download it again.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object; download it again.")
    return value
