"""Graphs in onnxruntime's own format and the operators they need: for a small build of it.

A build with `--minimal_build` reads only `.ort` files; `--include_ops_by_config` leaves out every
kernel that the list does not name (https://onnxruntime.ai/docs/build/custom.html).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mobile_runtime.engines.onnx.sessions import SessionSettings, open_session, session_options

OPERATORS_FILE = "required_operators.config"
MAX_BYTES = 2**31 - 1  # of a flatbuffer, which holds graph and weights


def write_ort(graph: Path, path: Path) -> None:
    """Write `graph` with its weights to `path`, ending in .ort, as onnxruntime optimizes it."""
    options = session_options(SessionSettings(threads=1))
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.add_session_config_entry("session.disable_prepacking", "1")
    open_session(graph, options)


def write_operators(graphs: Sequence[Path], path: Path) -> None:
    """Write the operators of .ort files to `path`, in the form that onnxruntime's build takes."""
    from onnxruntime.tools.ort_format_model import create_config_from_models, utils

    utils.log.setLevel(logging.WARNING)  # it would name each file
    create_config_from_models(list(graphs), path, enable_type_reduction=False)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(x for x in lines if not x.startswith("#")), encoding="utf-8")
