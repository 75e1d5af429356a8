"""Files and folders that are written whole or not at all, and reading of JSON."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from mobile_runtime.errors import InputError

# Of Windows' OpenProcess and GetExitCodeProcess.
_QUERY = 0x1000  # PROCESS_QUERY_LIMITED_INFORMATION
_ACCESS_DENIED = 5
_STILL_ACTIVE = 259


def load_json(path: Path, remedy: str) -> Any:
    """The JSON value in `path`. The text of an `InputError` ends with `remedy`."""
    if not path.is_file():
        raise InputError(f"{path.parent} has no {path.name}; {remedy}.")
    return parse_json(path.read_bytes(), path, remedy)


def parse_json(data: bytes, path: Path, remedy: str) -> Any:
    """The JSON value in the content of `path`. The text of an `InputError` ends with `remedy`."""
    try:
        value = json.loads(data.decode("utf-8"))
        if b"\\ud" in data.lower():  # half a character cannot be printed, nor be part of a path
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested too deeply
        raise InputError(f"{path} is not valid JSON ({error}); {remedy}.") from error


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in `path`. The text of an `InputError` ends with `remedy`."""
    value = load_json(path, remedy)
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object; {remedy}.")
    return value


def file_identity(path: Path) -> tuple[int, ...]:
    """(inode, bytes, times of modification and of change in ns) of a file, which change whenever it
    is replaced or written to, even if its time is put back."""
    status = path.stat()
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A hidden file beside `path`, to be written; it takes the place of `path` at the end, and an
    error leaves nothing. Folders above are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Raises `InputError` if no file can be written at `path`; to be called before the work whose
    result it is to hold."""
    above = next((folder for folder in path.absolute().parents if folder.exists()), Path())
    if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(
            f"{path} cannot be written; name a file in a folder that can be written to."
        )


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


# How a sealed JSON file begins; there follows the SHA-256, in hexadecimal, of all after that.
_SEAL = b'{\n "digest": "'
_SEAL_END = len(_SEAL) + 64


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """The content of a JSON file that begins with a digest of the rest, under the key `digest`."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    rest = f'",{text[1:]}'.encode()
    return _SEAL + hashlib.sha256(rest).hexdigest().encode() + rest


def is_sealed(data: bytes) -> bool:
    """Whether the content of a file is as `sealed_json` made it."""
    digest = hashlib.sha256(data[_SEAL_END:]).hexdigest().encode()
    return data[:_SEAL_END] == _SEAL + digest


def seal_of(data: bytes) -> str:
    """The digest that the content of a sealed JSON file begins with."""
    return data[len(_SEAL) : _SEAL_END].decode()


def this_process() -> str:
    """Name of this process, to which its unfinished folders belong."""
    return f"{_process_space()}-{os.getpid()}"


def _process_space() -> str:
    """Within it a process has one number: a machine, or a container on it. Containers may share
    name and cache, and do not see each other's processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        return f"{socket.gethostname()}-{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return socket.gethostname()


def has_ended(owner: str) -> bool:
    """Whether the process of that name ran on this machine, and does not run any more."""
    space, _, process = owner.rpartition("-")
    if space != _process_space():
        return False
    if not process.isdecimal():
        return True
    if sys.platform == "win32":
        return not _runs_on_windows(int(process))
    try:
        os.kill(int(process), 0)
    except (OverflowError, ProcessLookupError):
        return True
    except PermissionError:
        return False
    return False


def _runs_on_windows(process: int) -> bool:
    """Whether a process runs. Signal 0 is Ctrl-C there, which would interrupt it."""
    windows: Any = ctypes  # which has these two on Windows only
    kernel = windows.WinDLL("kernel32", use_last_error=True)
    kernel.OpenProcess.restype = ctypes.c_void_p  # a handle has 64 bits
    handle = kernel.OpenProcess(_QUERY, False, process)
    if not handle:
        return bool(windows.get_last_error() == _ACCESS_DENIED)
    code = ctypes.c_uint32()
    known = kernel.GetExitCodeProcess(ctypes.c_void_p(handle), ctypes.byref(code))
    kernel.CloseHandle(ctypes.c_void_p(handle))
    return not known or code.value == _STILL_ACTIVE


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, which becomes `target` at the end; an error leaves nothing,
    and what a killed process left of the same name is removed.

    Raises `InputError` if no folder can be made, `OSError` if `target` exists at the end.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        begun = Path(
            tempfile.mkdtemp(prefix=f"{_begun(target)}{this_process()}.", dir=target.parent)
        )
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


def _begun(target: Path) -> str:
    """How the names of the folders begin that are to become `target`."""
    return f".{target.name[:100]}-"  # a name has 255 letters at most


def _remove_abandoned(target: Path) -> None:
    for folder in target.parent.glob(f"{glob.escape(_begun(target))}*"):
        owner, dot, _ = folder.name.removeprefix(_begun(target)).rpartition(".")
        if dot and has_ended(owner):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def scratch_folder(target: Path, kind: str = "partial") -> Iterator[Path]:
    """A new folder beside `target`, hidden, that vanishes at the end unless it is moved away. Its
    name is fixed, so that a killed process leaves nothing that the next one does not remove."""
    folder = target.with_name(f".{target.name}.{kind}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put the finished folder `new` in the place of `target`; the old one is removed at the end."""
    old = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def is_plain(name: str) -> bool:
    """Whether no part of a relative path is empty or '.'."""
    return not {"", "."}.intersection(name.removeprefix("/").split("/"))


def path_inside(root: Path, name: str) -> Path | None:
    """The path of `name` inside the folder `root`, links followed; None for absolute paths, '..',
    and links that lead out. A folder in a snapshot of the Hugging Face hub's cache is made of links
    to the blobs of its repository, which count as inside."""
    pure, root = PurePosixPath(name), root.resolve()
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        return None
    try:
        path = (root / pure).resolve()
    except (OSError, RuntimeError):  # links in a loop
        return None
    inside = any(path.is_relative_to(home) for home in (root, *_blobs(root)))
    return path if inside else None


def _blobs(root: Path) -> list[Path]:
    """Of the repository in whose snapshot a folder lies: …/blobs for …/snapshots/REVISION/…"""
    homes = [parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots"]
    return [home for home in homes if home.is_dir() and not home.is_symlink()]
