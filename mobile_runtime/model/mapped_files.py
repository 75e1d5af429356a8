"""The files that an open bundle maps, which must stay as they were verified.

Mapped bytes are read when they are computed with. What another program writes into a file is seen
at once, and where a file was cut, the system ends this process (SIGBUS on Linux and macOS), which
Python cannot turn into an error. So files are looked at before and after each computation: nothing
is computed with a file that has changed, and no result leaves that was computed while one did. Only
a file that is cut within a computation still ends the process.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from mobile_runtime.bundle import Manifest, referenced_paths
from mobile_runtime.errors import InputError
from mobile_runtime.files import file_identity


class MappedFiles:
    """Graphs and tables of a bundle. Made before they are verified, so that a change from then on
    is noticed."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        stems = tuple(_stem(name) for name in referenced_paths(manifest))
        names = [entry.path for entry in manifest.files if entry.path.startswith(stems)]
        self._known = {name: (bundle / name, _identity(bundle / name)) for name in names}

    def check(self) -> None:
        """Raises `InputError` if a file was replaced, written to or removed. A file system that
        does not tell times of change, or not at once, as NFS, may hide it."""
        for name, (path, identity) in self._known.items():
            if _identity(path) != identity:
                raise InputError(
                    f"{name} was changed while the bundle was open, and what was computed since "
                    "is not to be used; load the bundle again."
                )


def _stem(name: str) -> str:
    """What the names of a graph's files begin with: its own, of its weights, of its twin."""
    return PurePosixPath(name).with_suffix("").as_posix()


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        return file_identity(path)
    except OSError:
        return None
