"""What is damaged: a tiny checkpoint, bundles made from it, pictures, films, caches."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from export.cli import main as export
from mobile_runtime.cli import main as run
from mobile_runtime.files import replace_folder, scratch_folder
from tests.fuzz.packages import write_packages
from tests.random_checkpoint import write_random_checkpoint

BUNDLES = {
    "state": ("coreml", "--kv-cache", "state", "--context-length", "256"),
    "io": ("coreml", "--kv-cache", "io", "--context-length", "256"),
    "onnx": ("onnx", "--context-length", "256"),
    "portable": ("onnx-portable", "--context-length", "256"),
}
PICTURES = ("png", "jpeg", "webp", "tiff", "gif", "bmp")
FILMS = ("mp4", "mkv", "webm")
CHAT = ("Hi", "--greedy", "--max-new-tokens", "2")


def make_base(folder):
    """Make everything in `folder`, once."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as new:
        # Before any export, which imports coremltools without what converts modules of PyTorch.
        (new / "packages").mkdir(parents=True)
        write_packages(new / "packages")
        write_random_checkpoint(new / "checkpoint")
        for name in BUNDLES:
            export_to(new / "bundles" / name, new / "checkpoint", name, new / "cache")
        _write_pictures(new / "pictures")
        _write_films(new / "films")
        with contextlib.redirect_stdout(io.StringIO()):
            picture = ("--image", str(new / "pictures/png"))
            packed = ("--prepacked", str(new / "prepacked"))
            assert run(["chat", str(new / "bundles/onnx"), *CHAT, *picture, *packed]) == 0
        replace_folder(new, folder)
    return folder


def export_to(bundle, checkpoint, name, cache):
    """Export to the folder `bundle`; return the command's exit code."""
    target, *options = BUNDLES[name]
    where = ("--checkpoint", str(checkpoint), "--output", str(bundle.parent / f"{name}-out"))
    with contextlib.redirect_stdout(io.StringIO()):
        arguments = [target, "--quant", "int4-fast", *options, *where, "--cache", str(cache)]
        code = export([*arguments, "--quiet", "--jobs", "1"])
    if code == 0:
        (made,) = (bundle.parent / f"{name}-out").iterdir()
        shutil.rmtree(bundle, ignore_errors=True)
        made.rename(bundle)
    return code


def _write_pictures(folder):
    folder.mkdir()
    grid = np.indices((40, 56)).transpose(1, 2, 0)
    pixels = np.concatenate([grid, grid[..., :1] * grid[..., 1:]], axis=2) * 4
    picture = Image.fromarray(pixels.astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 6, "2024:05:01 10:30:00"
    for kind in PICTURES:
        extra = {"exif": exif} if kind in ("jpeg", "webp", "png") else {}
        picture.save(folder / kind, kind, **extra)


def _write_films(folder):
    import av

    folder.mkdir()
    for kind in FILMS:
        with av.open(str(folder / kind), "w", format="matroska" if kind == "mkv" else kind) as file:
            stream = file.add_stream("libvpx-vp9" if kind == "webm" else "mpeg4", 10)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for n in range(12):
                pixels = np.full((64, 64, 3), 20 * n, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            file.mux(stream.encode())


def copy_of(folder, target):
    """The folder as hard links, whose files are then replaced, never written to."""
    shutil.copytree(folder, target, copy_function=os.link, symlinks=True)
    return target


def replace_file(path, data):
    """Give a file of a copy other bytes."""
    path.unlink()
    path.write_bytes(data)


def seal(bundle, manifest=None):
    """As one does who knows the format: sizes, checksums and the digest fit again. `manifest`: its
    bytes, if they are not those in the bundle."""
    path = bundle / "manifest.json"
    value = json.loads(path.read_bytes()) if manifest is None else json.loads(manifest)
    if not isinstance(value, dict):
        return replace_file(path, json.dumps(value).encode())
    value.pop("digest", None)
    if manifest is None:
        for entry in value["files"]:
            data = (bundle / entry["path"]).read_bytes()
            entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rest = ('",' + json.dumps(value, indent=1)[1:]).encode()
    digest = hashlib.sha256(rest).hexdigest()
    return replace_file(path, b'{\n "digest": "' + digest.encode() + rest)


def split_safetensors(data):
    """The header's JSON and the rest."""
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + length], data[8 + length :]


def join_safetensors(header, rest):
    """A file of them."""
    return struct.pack("<Q", len(header)) + header + rest


def files_of(folder: Path):
    """Paths of the folder's files relative to it, sorted."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(found)
