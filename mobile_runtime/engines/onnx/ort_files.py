"""The graphs of an ONNX bundle for a reduced build of onnxruntime: .ort files, operator list."""

from __future__ import annotations

from pathlib import Path

from mobile_runtime.bundle import Manifest
from mobile_runtime.engines.onnx.reduced import (
    MAX_BYTES,
    OPERATORS_FILE,
    write_operators,
    write_ort,
)
from mobile_runtime.errors import InputError
from mobile_runtime.files import new_folder


def write_ort_files(bundle: Path, manifest: Manifest, output: Path) -> list[Path]:
    """Write every graph as an .ort file and the list of their operators into the new folder
    `output`, whole or not at all; return the files. Raises `InputError` if the folder exists, or a
    graph has more weights than the format can hold."""
    if output.exists():
        raise InputError(f"{output} exists already; name a new folder.")
    large = [graph.path for graph in manifest.graphs if graph.weight_bytes > MAX_BYTES]
    if large:
        raise InputError(
            f"{', '.join(large)} has more weights than the 2 GB that an .ort file can hold; build "
            "onnxruntime without --minimal_build, so that it reads the .onnx files."
        )
    names = [Path(graph.path).with_suffix(".ort").name for graph in manifest.graphs]
    with new_folder(output) as begun:
        for graph, name in zip(manifest.graphs, names, strict=True):
            write_ort(bundle / graph.path, begun / name)
        write_operators([begun / name for name in names], begun / OPERATORS_FILE)
    return sorted(output.iterdir())
