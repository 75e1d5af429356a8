"""tampered_bundles.json: a tiny bundle and ways to damage it, for every reader's tests."""

import json
import shutil
from pathlib import Path

from mobile_runtime.files import sealed_json

TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in TABLE["cases"]}


def write_bundle(folder):
    """Write the intact bundle to a new folder."""
    for name, text in TABLE["files"].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    _write_manifest(folder, TABLE["manifest"])
    return folder


def _write_manifest(folder, manifest):
    whole = isinstance(manifest, dict)
    data = sealed_json(manifest) if whole else json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(data)


def tamper(folder, edit):
    """Damage the bundle in `folder` as a case's `edit` says."""
    ((kind, argument),) = edit.items()
    if kind in ("set", "delete"):
        _edit_manifest(folder, kind, argument)
    elif kind == "link":
        _link(folder / argument[0], argument[1])
    else:
        _edit_file(folder / argument, kind)


def _edit_file(path, kind):
    data = b"" if path.is_dir() else path.read_bytes()
    middle = len(data) // 2
    if kind == "flip":
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif kind == "append":
        path.write_bytes(data + b" ")
    elif kind == "unseal":
        path.write_bytes(b"{" + data[80:])
    elif kind == "truncate":
        path.write_bytes(data[:middle])
    elif kind == "write":
        path.write_bytes(b"")
    elif kind in ("remove", "folder"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if kind == "folder":
            path.mkdir()
    else:
        raise ValueError(f"unknown edit {kind}")


def _link(path, where):
    outside = path.parent.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside if where == "outside" else path)


def _edit_manifest(folder, kind, argument):
    value = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del value["digest"]
    *place, last = argument if kind == "delete" else ["root", *argument[0]]
    document = {"root": value}
    target = document if kind == "set" else value
    for key in place:
        target = target[key]
    if kind == "set":
        target[last] = argument[1]
    else:
        del target[last]
    _write_manifest(folder, document["root"])
