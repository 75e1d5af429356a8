"""Sessions of onnxruntime: opened with the settings that keep results right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobile_runtime.errors import InputError

CPU = "CPUExecutionProvider"
_FULL_PRECISION = "1"  # accuracy level of products with quantized weights: float32 activations
_ERRORS = 3  # log severity


@dataclass(frozen=True)
class SessionSettings:
    """How a graph is run.

    `full_precision` keeps activations in float32 in the products that onnxruntime fuses with
    standard quantized weights. `whole_sums` keeps products of 8-bit integers from overflowing 16
    bits on x86 without VNNI; with it, onnxruntime 1.32 computes blocked weights wrongly. `threads`
    0 lets onnxruntime choose their number.
    """

    full_precision: bool = False
    whole_sums: bool = False
    threads: int = 0


def load_onnxruntime() -> Any:
    """Return the library. Raises `InputError` if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("onnxruntime is not installed; run pip install -e '.[onnx]'.") from error
    return onnxruntime


def session_options(settings: SessionSettings) -> Any:
    """Return the settings as onnxruntime's own options."""
    options = load_onnxruntime().SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.log_severity_level = _ERRORS
    if settings.whole_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if settings.full_precision:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", _FULL_PRECISION)
    return options


def open_session(graph: Path, options: Any, providers: Sequence[str] = (CPU,)) -> Any:
    """Open a session. Raises `InputError` if onnxruntime refuses the file."""
    library = load_onnxruntime()
    try:
        return library.InferenceSession(graph, options, providers=list(providers))
    except Exception as error:  # onnxruntime raises types of its own, by cause
        raise InputError(
            f"onnxruntime {library.__version__} cannot open {graph.name} ({_first_line(error)}); "
            "copy the bundle again or use onnxruntime 1.32 or later."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
