"""The files that an open bundle maps, which must stay as they were verified.

Mapped bytes are read when they are computed with. What another program writes into a file is seen
at once, and where a file was cut, the system ends this process (SIGBUS on Linux and macOS), which
Python cannot turn into an error. So files are looked at before and after each computation. One that
was touched, linked or written to is verified again: nothing is computed with other bytes than the
manifest's. Only a file that is cut within a computation still ends the process.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from mobile_runtime.bundle import FileEntry, Manifest, file_sha256, referenced_paths
from mobile_runtime.errors import InputError
from mobile_runtime.files import file_identity

_Identity = tuple[int, ...] | None  # None: it is not there


class MappedFiles:
    """Graphs and tables of a bundle. Made before they are verified, so that a change from then on
    is noticed."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self._bundle = bundle
        stems = tuple(_stem(name) for name in referenced_paths(manifest))
        self._entries = [entry for entry in manifest.files if entry.path.startswith(stems)]
        self._known = {entry.path: _identity(bundle / entry.path) for entry in self._entries}

    def check(self) -> None:
        """Raises `InputError` if a file is not what it was. A file system that does not tell times
        of change, or not at once, as NFS, may hide it."""
        for entry in self._entries:
            path = self._bundle / entry.path
            identity = _identity(path)  # before it is read: a change from then on makes another one
            if identity == self._known[entry.path]:
                continue
            if not _is_intact(path, entry):
                raise InputError(
                    f"{entry.path} was changed while the bundle was open, and what was computed "
                    "since is not to be used; load the bundle again."
                )
            self._known[entry.path] = identity


def _stem(name: str) -> str:
    """What the names of a graph's files begin with: its own, of its weights, of its twin."""
    return PurePosixPath(name).with_suffix("").as_posix()


def _identity(path: Path) -> _Identity:
    try:
        return file_identity(path)
    except OSError:
        return None


def _is_intact(path: Path, entry: FileEntry) -> bool:
    try:
        return path.stat().st_size == entry.size and file_sha256(path) == entry.sha256
    except OSError:
        return False
