"""The operators of a graph that an execution provider runs, and those left to the processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mobile_runtime.engines.onnx.sessions import (
    CPU,
    SessionSettings,
    load_onnxruntime,
    open_session,
    session_options,
)

# Execution providers of phones; each is only in some builds of onnxruntime.
PROVIDERS: Mapping[str, str] = {
    "cpu": CPU,
    "xnnpack": "XnnpackExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
_STANDARD = ("", "ai.onnx")


def available_providers() -> tuple[str, ...]:
    """Return the names in `PROVIDERS` that this onnxruntime has."""
    found = load_onnxruntime().get_available_providers()
    return tuple(name for name, full in PROVIDERS.items() if full in found)


def assigned_operators(graph: Path, provider: str) -> tuple[Counter[str], Counter[str]]:
    """Count how often each operator of `graph`, after onnxruntime's fusions, is run by `provider`
    and how often it is left to the processor. Operators outside the standard have their domain
    before their name."""
    options = session_options(SessionSettings(threads=1))
    for name in ("record_ep_graph_assignment_info", "disable_prepacking"):
        options.add_session_config_entry(f"session.{name}", "1")
    wanted = PROVIDERS[provider]
    session = open_session(graph, options, list(dict.fromkeys((wanted, CPU))))
    taken: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counted = taken if part.ep_name == wanted else left
        for node in part.get_nodes():
            standard = node.domain in _STANDARD
            counted[node.op_type if standard else f"{node.domain}:{node.op_type}"] += 1
    return taken, left
