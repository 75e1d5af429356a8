"""Engines run one package: a dict of arrays in, a dict of arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from mobile_runtime.errors import InputError

State = dict[str, Any]


class Engine(Protocol):
    """One open package."""

    def new_state(self) -> Any:
        """A zeroed state, shared by the functions of the package."""

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        function: str | None = None,
        state: Any = None,
    ) -> dict[str, np.ndarray]:
        """Call one function; outputs by name."""


EngineName = Literal["auto", "mil", "coreml", "onnx"]
ENGINE_NAMES: tuple[EngineName, ...] = get_args(EngineName)


@dataclass(frozen=True)
class EngineOptions:
    """`precision` is the interpreter's, `compute_units` Core ML's, `threads` onnxruntime's (0: as
    many as there are cores), `prepacked` the folder where it keeps weights in its own order, if
    anywhere; `auto` picks by bundle."""

    name: EngineName = "auto"
    precision: Literal["fp32", "fp16"] = "fp16"
    compute_units: Literal["ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY"] = "CPU_AND_NE"
    threads: int = 0
    prepacked: Path | None = None


def _open_mil(path: Path, options: EngineOptions) -> Engine:
    from mobile_runtime.engines.mil.engine import MilEngine

    return MilEngine(path, precision=options.precision)


def _open_coreml(path: Path, options: EngineOptions) -> Engine:
    from mobile_runtime.engines.coreml import CoreMLEngine

    return CoreMLEngine(path, options.compute_units)


ENGINES: Mapping[str, Callable[[Path, EngineOptions], Engine]] = {
    "mil": _open_mil,
    "coreml": _open_coreml,
}


def open_engine(path: Path, options: EngineOptions) -> Engine:
    """Open a Core ML package with the engine that `options` name; `auto` is the interpreter, which
    runs everywhere."""
    name = "mil" if options.name == "auto" else options.name
    if name not in ENGINES:
        raise InputError(f"no engine {name!r}; there are {', '.join(ENGINES)}.")
    return ENGINES[name](path, options)
