"""Weights in the order that this processor's kernels read them, kept on disk.

onnxruntime copies every quantized matrix into that order when it opens a graph: 0.55 to 0.73 bytes
per parameter of memory that the system cannot reclaim. Written once beside an optimized graph, they
are mapped instead. The order depends on the processor and on the version of onnxruntime, so each
pair has its own copy.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from mobile_runtime.bundle import list_files
from mobile_runtime.engines.onnx.sessions import (
    SessionSettings,
    load_onnxruntime,
    open_session,
    session_options,
)
from mobile_runtime.errors import InputError
from mobile_runtime.files import is_sealed, new_folder, sealed_json

_DIGESTS = "digests.json"
_INLINE = 1024  # bytes up to which an initializer stays within the graph
_CPU_FACTS = ("model name", "flags", "Features", "CPU part")


def open_prepacked(graph: Path, identity: str, settings: SessionSettings, cache: Path) -> Any:
    """Open the prepacked copy of `graph` in the folder `cache`, writing it first if needed (up to
    twice the disk space). `identity` separates bundles whose graphs have equal names. Raises
    `InputError` if `cache` is a file or the copy is damaged."""
    if cache.exists() and not cache.is_dir():
        raise InputError(f"{cache} is a file; give a folder for prepacked weights, new or old.")
    library = load_onnxruntime()
    made_for = (identity, library.__version__, _processor(), str(astuple(settings)[:2]))
    key = hashlib.sha256("\n".join(made_for).encode()).hexdigest()[:16]
    folder = cache / f"{graph.stem}-{key}"
    damaged = InputError(f"{folder} is damaged; remove it, and it is made again.")
    if not folder.is_dir():
        _write(graph, settings, folder)
    elif not _is_intact(folder):
        raise damaged
    options = session_options(settings)
    # The copy is optimized already.
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return open_session(folder / graph.name, options)
    except InputError as error:
        raise damaged from error


def _write(graph: Path, settings: SessionSettings, folder: Path) -> None:
    """Write the prepacked copy of `graph` to the new `folder`."""
    options = session_options(settings)
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    name = "session.optimized_model_external_initializers_{}"
    options.add_session_config_entry(name.format("file_name"), f"{graph.name}_data")
    options.add_session_config_entry(name.format("min_size_in_bytes"), str(_INLINE))
    try:
        with new_folder(folder) as begun:
            options.optimized_model_filepath = str(begun / graph.name)
            open_session(graph, options)
            files = [asdict(file) for file in list_files(begun)]
            (begun / _DIGESTS).write_bytes(sealed_json({"files": files}))
    except OSError:
        if not folder.is_dir():  # if it is there, another process wrote it first
            raise


def _is_intact(folder: Path) -> bool:
    """Whether all files are as they were written."""
    try:
        data = (folder / _DIGESTS).read_bytes()
    except OSError:
        return False
    found = [asdict(file) for file in list_files(folder, skip=(_DIGESTS,))]
    return is_sealed(data) and json.loads(data)["files"] == found


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if not facts.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = facts.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(_CPU_FACTS))
