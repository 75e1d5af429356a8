"""Sessions of onnxruntime: opened with the settings that keep results right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mobile_runtime.engines.memory import memory_share
from mobile_runtime.engines.onnx.straight import check_straight
from mobile_runtime.errors import InputError

CPU = "CPUExecutionProvider"
_FULL_PRECISION = "1"  # accuracy level of products with quantized weights: float32 activations
_FATAL = 4  # log severity: errors are raised, too
# For the values of all sessions together, without weights, inputs and caches, where a quarter of
# the memory is less; the arena grows by doubling, so half of it can be used for certain. Attention
# scores of a picture of 448 take a fiftieth, of one of 980 three quarters.
_LEAST_ARENA_BYTES = 4 << 30


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


@cache
def arena_bytes() -> int:
    """What the values of all sessions may take together: a graph may ask for any amount."""
    return memory_share(_LEAST_ARENA_BYTES)


@cache
def _limit_memory() -> None:
    library = load_onnxruntime()
    kinds = library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, library.OrtMemType.DEFAULT
    memory = library.OrtMemoryInfo("Cpu", kinds[0], 0, kinds[1])
    library.create_and_register_allocator(memory, library.OrtArenaCfg({"max_mem": arena_bytes()}))


def session_options(settings: SessionSettings) -> Any:
    """Return the settings as onnxruntime's own options."""
    options = load_onnxruntime().SessionOptions()
    _limit_memory()
    for name in ("use_env_allocators", "use_device_allocator_for_initializers"):
        options.add_session_config_entry(f"session.{name}", "1")
    options.intra_op_num_threads = settings.threads
    options.log_severity_level = _FATAL
    if settings.whole_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if settings.full_precision:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", _FULL_PRECISION)
    return options


def open_session(graph: Path, options: Any, providers: Sequence[str] = (CPU,)) -> Any:
    """Open a session. Raises `InputError` if onnxruntime refuses the file, or the graph holds a
    loop, a condition or a function."""
    library = load_onnxruntime()
    if graph.suffix == ".onnx":
        check_straight(graph)
    try:
        return library.InferenceSession(graph, options, providers=list(providers))
    except Exception as error:  # onnxruntime raises types of its own, by cause
        raise InputError(
            f"onnxruntime {library.__version__} cannot open {graph.name} ({reason_of(error)}); "
            "copy the bundle again or use onnxruntime 1.32 or later."
        ) from error


# Where in onnxruntime's own code an error arose, and in which function.
_PLACE = re.compile(r"/\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z])")


def reason_of(error: Exception) -> str:
    """One line of what onnxruntime says, without the places in its own code."""
    text = str(error).strip() or type(error).__name__
    text = text.splitlines()[0].rpartition("Status Message: ")[2]
    return _PLACE.sub("", text)[:300]
