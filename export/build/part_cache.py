"""Cache of finished parts of bundles, beside which calibrations lie.

The key covers everything but the weights that determines a part's bytes. An entry lists the tensors
that it was made from and is valid only for those. Entries appear by renaming, so none is ever
half-written; what a killed export leaves in `partial` is removed by the next one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from export.checkpoint.adapters import ADAPTED
from export.checkpoint.calibrated import CALIBRATED
from export.checkpoint.readings import Reading
from export.checkpoint.source import TensorSource
from mobile_runtime.bundle import FileEntry, list_files
from mobile_runtime.files import has_ended, is_sealed, sealed_json

_ENTRY = "entry.json"
_READ_ONLY = 0o444
_RECENT = 3600.0  # seconds in which another export may still be linking an entry's files


@dataclass(frozen=True)
class Entry:
    """A finished part: its folder, its files and the tensors that were read for it."""

    folder: Path
    files: tuple[FileEntry, ...]
    readings: tuple[Reading, ...]
    identities: tuple[tuple[str, tuple[int, ...]], ...]  # of the tensors' shards when read

    @property
    def content(self) -> Path:
        """The folder with the files."""
        return self.folder / "content"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class PartCache:
    """A folder of entries. Parallel workers and exports may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries, self._partial = root / "entries", root / "partial"

    def find(self, key: str, source: TensorSource) -> Entry | None:
        """Return the entry of `key` that was made from this source's tensors, if it is intact."""
        for folder in sorted((self._entries / key).glob("*")):
            entry = _load(folder)
            if entry is not None and _same_weights(entry, source):
                if not _has_links(entry.content) and list_files(entry.content) == entry.files:
                    os.utime(folder)
                    return entry
                shutil.rmtree(folder, ignore_errors=True)  # damaged
        return None

    def workplace(self, owner: str, name: str) -> Path:
        """Make a new empty folder to build in; `owner` is `this_process` of the export."""
        folder = self.progress_folder(owner) / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "content").mkdir(parents=True)
        return folder

    def progress_folder(self, owner: str) -> Path:
        """The folder of the workplaces of one export."""
        return self._partial / owner

    def keep(
        self, key: str, folder: Path, source: TensorSource, readings: tuple[Reading, ...]
    ) -> Entry:
        """Turn a workplace into an entry."""
        names = sorted({reading.tensor for reading in readings})
        identities = tuple((name, source.identity(name)) for name in names)
        entry = Entry(folder, list_files(folder / "content"), readings, identities)
        values = asdict(entry)
        del values["folder"]
        (folder / _ENTRY).write_bytes(sealed_json(values))
        target = self._entries / key / folder.parent.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
        return Entry(target, entry.files, readings, identities)

    def clean(self) -> None:
        """Remove the workplaces of exports that were killed on this machine."""
        for folder in self._partial.glob("*"):
            if has_ended(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def trim(self, limit: int) -> None:
        """Remove the least recently used entries and calibrations until at most `limit` bytes are
        left.

        Those used within the last hour stay.
        """
        entries = [e for folder in self._entries.glob("*/*") if (e := _load(folder)) is not None]
        sizes = {entry.folder: entry.size for entry in entries}
        prepared = [*(self.root / CALIBRATED).glob("*"), *(self.root / ADAPTED).glob("*")]
        for folder in prepared:
            sizes[folder] = sum(file.stat().st_size for file in folder.iterdir())
        total = sum(sizes.values())
        for folder in sorted(sizes, key=lambda folder: folder.stat().st_mtime):
            if total <= limit or time.time() - folder.stat().st_mtime < _RECENT:
                break
            shutil.rmtree(folder, ignore_errors=True)
            total -= sizes[folder]


def place(entry: Entry, target: Path, allows_hard_links: bool) -> None:
    """Put an entry's files into the folder `target`: as hard links, or as copies if links are not
    allowed or the file system has none. A file that is linked is read-only from then on: written
    to in one bundle, it would change in the cache and in every other bundle."""
    for file in entry.files:
        kept, path = entry.content / file.path, target / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if allows_hard_links:
            with suppress(OSError):
                kept.chmod(_READ_ONLY)
                os.link(kept, path)
                continue
        shutil.copyfile(kept, path)


def _has_links(content: Path) -> bool:
    """Whether a file is a symbolic link: linked into a bundle, it would lead out of that."""
    return any(path.is_symlink() for path in content.rglob("*"))


def _load(folder: Path) -> Entry | None:
    try:
        data = (folder / _ENTRY).read_bytes()
        if not is_sealed(data):
            return None
        values = json.loads(data)
        return Entry(
            folder,
            tuple(FileEntry(**file) for file in values["files"]),
            tuple(Reading(**reading) for reading in values["readings"]),
            tuple((name, tuple(identity)) for name, identity in values["identities"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _same_weights(entry: Entry, source: TensorSource) -> bool:
    """Whether the tensors are those that the entry was made from. Shards that did not change since
    are not read again."""
    known = dict(entry.identities)
    for reading in entry.readings:
        if reading.tensor not in source.tensors:
            return False
        same_shard = known[reading.tensor] == source.identity(reading.tensor)
        if not same_shard and reading.sha256 != source.digest(
            reading.tensor, reading.begin, reading.end
        ):
            return False
    return True
