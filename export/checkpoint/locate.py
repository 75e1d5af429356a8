"""Finds a checkpoint: a folder, a hub id, or the pocket model that ships with the program."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from mobile_runtime.errors import InputError
from mobile_runtime.files import file_identity, sealed_json, written_whole

# The pocket model, a small trained one: see its README.md.
DEFAULT_CHECKPOINT = Path(__file__).parents[1] / "pocket"
CHECKED = "checked"  # the folder of such notes in a cache
_SMALL = (".json", ".jinja", ".txt", ".model")
_HASH_BLOCK = 1 << 20
_HUB_FILES = ["*.json", "*.jinja", "merges.txt", "LICENSE*"]


def small_files(folder: Path) -> list[Path]:
    """What describes the model of a checkpoint and its tokenizer."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in _SMALL and not path.name.endswith(".index.json")
    )


def local_checkpoint(given: str | None) -> Path | None:
    """The given folder, or the pocket model's for None; returns None for a hub id. Raises
    `InputError` for what is neither."""
    folder = DEFAULT_CHECKPOINT if given is None else Path(given).expanduser()
    if given is None or folder.is_dir():
        return folder
    if folder.is_file():
        raise InputError(f"{given} is a file; give the folder that it lies in.")
    if given.count("/") != 1 or folder.is_absolute() or given.startswith("."):
        raise InputError(
            f"no checkpoint at {given}; give a folder with config.json and safetensors, "
            "or a hub id such as openbmb/MiniCPM-V-4_5."
        )
    return None


def locate_checkpoint(
    given: str | None, *, weights: bool = True, cache: Path | None = None
) -> Path:
    """Return the folder of a checkpoint: a folder itself, or the pocket model's for None.

    A hub id ("openbmb/MiniCPM-V-4_5") is downloaded to the hub's cache; without `weights` the
    shards are left out. Large files that were found to be the hub's are noted in the folder
    `cache`, and not read again before they change; without it they are read each time. Raises
    `InputError` if there is no such folder or download, or a file of it is another than the hub's.
    """
    if (local := local_checkpoint(given)) is not None:
        return local
    assert given is not None, "the pocket model is part of the package"
    from huggingface_hub import snapshot_download

    try:
        patterns = [*_HUB_FILES, "*.safetensors"] if weights else _HUB_FILES
        found = Path(snapshot_download(given, allow_patterns=patterns))
    except Exception as error:  # the hub client raises its own, httpx's and OS errors
        raise InputError(
            f"{given} is not a folder and could not be downloaded from the hub "
            f"({type(error).__name__}); check the name and the network, or give a folder."
        ) from error
    _check_digests(found, weights, None if cache is None else cache / CHECKED)
    return found


def _check_digests(snapshot: Path, weights: bool, notes: Path | None) -> None:
    """The hub's client compares sizes only. It names each blob by the digest that the hub gave:
    SHA-256 of large files, of others the SHA-1 that git has of them.

    One that does not match is removed, so that it is fetched again.
    """
    for path in sorted(snapshot.rglob("*")):
        if not path.is_symlink() or not path.is_file():  # where links cannot be, names say nothing
            continue
        blob = path.resolve()
        if weights or path.suffix != ".safetensors":
            kind = {64: "sha256", 40: "sha1"}.get(len(blob.name))
            if kind is not None and not _is_as_named(blob, kind, notes):
                path.unlink()
                blob.unlink()
                raise InputError(
                    f"{path.name} is not what the hub says it is: the transfer damaged it; run the "
                    "same command again, and it is fetched again."
                )


def _is_as_named(blob: Path, kind: str, notes: Path | None) -> bool:
    """Whether the digest of a blob is its name. One of a large file is computed once: as long as
    the file is the same, by `file_identity`, a sealed note in the folder `notes` says so."""
    if notes is None or kind != "sha256":
        return _digest(blob, kind) == blob.name
    note = notes / blob.name
    # Taken before it is read: a change from then on makes another one.
    right = sealed_json({"path": str(blob), "identity": file_identity(blob)})
    with suppress(OSError):
        if note.read_bytes() == right:
            return True
    if _digest(blob, kind) != blob.name:
        return False
    with suppress(OSError), written_whole(note) as partial:  # a note is no must
        partial.write_bytes(right)
    return True


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    if kind == "sha1":
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
