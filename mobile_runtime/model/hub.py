"""Bundles on the Hugging Face hub: `hf://OWNER/NAME@REVISION` stands for a bundle's folder."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from mobile_runtime.bundle import MANIFEST_NAME, Manifest, file_sha256, read_manifest
from mobile_runtime.errors import InputError
from mobile_runtime.files import is_sealed, path_inside

SCHEME = "hf://"
# A `Path` folds the two slashes; a revision may be a branch with slashes of its own.
_ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class HubAddress:
    """A repository of the hub, and a commit, tag or branch of it; None: its main branch."""

    repository: str
    revision: str | None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{self.repository}{revision}"


def hub_address(place: Path | str) -> HubAddress | None:
    """What a text or path that begins with `hf:` names; None for the path of a folder. Raises
    `InputError` for an address that is not complete."""
    text = place.as_posix() if isinstance(place, Path) else place
    if not text.startswith("hf:/"):
        return None
    if (found := _ADDRESS.fullmatch(text)) is None:
        raise InputError(
            f"{SCHEME}{text[3:].lstrip('/')} is no address of a bundle; give {SCHEME}OWNER/NAME, "
            "with @ and a commit, tag or branch after it to choose one."
        )
    return HubAddress(found[1], found[2])


def bundle_folder(place: Path | str) -> Path:
    """The folder of a bundle: `place` itself, or for an address of the hub the folder in the hub's
    cache, where what is missing is fetched first; a stopped transfer goes on where it was.

    Only what manifest.json lists is fetched, all of it from one commit. Every fetched file is held
    against its checksum, and removed if it differs. Raises `InputError` if the bundle cannot be
    had, or is not one.
    """
    address = hub_address(place)
    if address is None:
        return Path(place)
    folder = _fetch_manifest(address)
    manifest = _read_fetched(folder)
    if missing := [entry.path for entry in manifest.files if not _is_there(folder, entry.path)]:
        _fetch(address, folder, [entry.path for entry in manifest.files])
        _check_fetched(address, folder, manifest, missing)
    return folder


def bundle_name(folder: Path) -> str:
    """What reports and servers call a bundle: the name of its folder, or OWNER/NAME@COMMIT, the
    commit shortened, for one in the hub's cache."""
    folder = folder.resolve()
    if (repository := _repository(folder)) is None:
        return folder.name
    return f"{repository}@{folder.name[:8]}"


def check_changeable(folder: Path, remedy: str) -> None:
    """Raises `InputError`, whose text ends with `remedy`, for a bundle in the hub's cache."""
    if _repository(folder.resolve()) is not None:
        raise InputError(
            f"{bundle_name(folder)} lies in the hub's cache, which has to stay as it was fetched; "
            f"{remedy}."
        )


def _repository(folder: Path) -> str | None:
    """OWNER/NAME of a folder …/models--OWNER--NAME/snapshots/COMMIT; None for any other."""
    kind, _, rest = folder.parent.parent.name.partition("--")
    owner, _, name = rest.partition("--")
    known = folder.parent.name == "snapshots" and kind == "models" and name
    return f"{owner}/{name}" if known else None


def _read_fetched(folder: Path) -> Manifest:
    """The manifest in the hub's cache. One that a transfer damaged is removed, so that it is
    fetched again."""
    try:
        return read_manifest(folder)
    except InputError:
        if not is_sealed((folder / MANIFEST_NAME).read_bytes()):
            _remove(folder, MANIFEST_NAME)
        raise


def _remove(folder: Path, name: str) -> None:
    """Remove a file of a snapshot, and the blob that it is a link to."""
    path = folder / name
    path.resolve().unlink()
    path.unlink(missing_ok=True)


def _is_there(folder: Path, name: str) -> bool:
    path = path_inside(folder, name)
    return path is not None and path.is_file()


def _fetch_manifest(address: HubAddress) -> Path:
    """The folder of the commit that the address names now, with its manifest.json."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError
    except ModuleNotFoundError as missing:
        raise InputError(
            f"{missing.name} is not installed, which {address} is fetched with; run "
            "pip install -e '.[hub]'."
        ) from missing
    try:
        found = hf_hub_download(address.repository, MANIFEST_NAME, revision=address.revision)
    except RemoteEntryNotFoundError as error:
        raise InputError(
            f"{address} is not a bundle: it has no {MANIFEST_NAME}; give the address that "
            "`python -m export upload` printed."
        ) from error
    except Exception as error:  # the hub client raises its own, httpx's and OS errors
        raise _unreachable(address, error) from error
    return Path(found).parent


def _fetch(address: HubAddress, folder: Path, names: list[str]) -> None:
    """Fetch files of the commit whose folder this is, which has the commit's name."""
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            address.repository,
            revision=folder.name,
            allow_patterns=[glob.escape(name) for name in names],
        )
    except Exception as error:  # as above
        raise _unreachable(address, error) from error


def _unreachable(address: HubAddress, error: Exception) -> InputError:
    return InputError(
        f"{address} could not be fetched from the hub and is not whole in its cache "
        f"({type(error).__name__}); check the name and revision, the network and, for a private "
        "repository, `hf auth login`."
    )


def _check_fetched(
    address: HubAddress, folder: Path, manifest: Manifest, fetched: list[str]
) -> None:
    """The hub's client compares sizes only."""
    wanted = {entry.path: entry.sha256 for entry in manifest.files}
    for name in fetched:
        path = path_inside(folder, name)
        if path is None or not path.is_file():
            raise InputError(
                f"{address} lacks {name}, which its {MANIFEST_NAME} lists; upload the bundle again."
            )
        if file_sha256(path) != wanted[name]:
            _remove(folder, name)
            raise InputError(
                f"{name} of {address} does not match its checksum: the transfer damaged it, or "
                "another file was uploaded in its place; run the same command again, and it is "
                "fetched again."
            )
