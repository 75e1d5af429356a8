"""Engines run one package or graph: a dict of arrays in, a dict of arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from mobile_runtime.engines.memory import Limits
from mobile_runtime.errors import InputError

if TYPE_CHECKING:
    from mobile_runtime.engines.mil.pairs import Observer
    from mobile_runtime.engines.torch import TorchEngine

CPU = "cpu"
AUTO = "auto"  # the first engine that the bundle's format names


ComputeUnits = Literal["ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY"]
COMPUTE_UNITS: tuple[ComputeUnits, ...] = get_args(ComputeUnits)


class Engine(Protocol):
    """One open package or graph."""

    def new_state(self, length: int = 0) -> Any:
        """A zeroed state, shared by the functions of the package. `length` is the number of
        positions if the graph leaves it open."""

    def read_state(self, state: Any, name: str) -> np.ndarray:
        """The array `name` of a state: a view or a copy, valid until the next call of `run`."""

    def write_state(self, state: Any, name: str, value: np.ndarray) -> None:
        """Overwrite the beginning of the array `name`: along each axis as far as `value` goes."""

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        function: str | None = None,
        state: Any = None,
    ) -> dict[str, np.ndarray]:
        """Call one function (None: the default one); outputs by name."""


@dataclass(frozen=True)
class EngineOptions:
    """How packages are run.

    `name` is a key of `ENGINES`, or "auto". `precision` is the interpreter's and onnxruntime's:
    "fp16" computes as the device does, "fp32" keeps activations in float32. `compute_units` are
    Core ML's, `threads` onnxruntime's (0: one per core). `prepacked` is the folder in which
    onnxruntime keeps weights in its kernels' order. `device` is the engine torch's: "cpu", "cuda",
    "mps" or another that PyTorch knows. A call of a package in the interpreter may take what
    `limits` allow. An `observer` is told what half precision does to each result, in the
    interpreter, which then gives results in full precision.
    """

    name: str = AUTO
    precision: Literal["fp32", "fp16"] = "fp16"
    compute_units: ComputeUnits = "CPU_AND_NE"
    threads: int = 0
    prepacked: Path | None = None
    device: str = CPU
    limits: Limits = Limits()
    observer: Observer | None = None


def _open_mil(path: Path, options: EngineOptions) -> Engine:
    from mobile_runtime.engines.mil.engine import MilEngine

    if options.observer is not None:
        from mobile_runtime.engines.mil.pairs import PairEngine

        return PairEngine(path, options.observer, limits=options.limits)
    return MilEngine(path, precision=options.precision, limits=options.limits)


def _open_torch(path: Path, options: EngineOptions) -> Engine:
    engine = torch_engine()
    return engine(path, device=options.device, precision=options.precision, limits=options.limits)


def torch_engine() -> type[TorchEngine]:
    """The engine torch. Raises `InputError` if PyTorch is not installed."""
    try:
        from mobile_runtime.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(
            "The engine torch needs PyTorch, which is not installed; run pip install -e "
            "'.[torch]', or use the engine mil."
        ) from error
    return TorchEngine


def _open_coreml(path: Path, options: EngineOptions) -> Engine:
    from mobile_runtime.engines.coreml import CoreMLEngine

    return CoreMLEngine(path, options.compute_units)


def _open_onnx(path: Path, options: EngineOptions) -> Engine:
    from mobile_runtime.engines.onnx import OnnxEngine, SessionSettings

    settings = SessionSettings(options.precision == "fp32", threads=options.threads)
    return OnnxEngine.load(path, settings)


ENGINES: dict[str, Callable[[Path, EngineOptions], Engine]] = {
    "mil": _open_mil,
    "torch": _open_torch,
    "coreml": _open_coreml,
    "onnx": _open_onnx,
}


def engine_names() -> tuple[str, ...]:
    """Values that `EngineOptions.name` may have."""
    return (AUTO, *ENGINES)


def check_engine(options: EngineOptions) -> None:
    """Raises `InputError`, before any file is read, if the engine or its device is not here."""
    if options.name == "torch":
        torch_engine()
        from mobile_runtime.engines.torch.device import check_device

        check_device(options.device)
    elif options.device != CPU:
        raise InputError(
            f"The device {options.device!r:.40} is for the engine torch, and the engine is "
            f"{options.name}; choose the engine torch, or no device."
        )


def open_engine(path: Path, options: EngineOptions) -> Engine:
    """Open one package or graph with the engine that `options` names, a key of `ENGINES`.

    Raises `InputError` for another name, a device that is not here, and if the engine cannot open
    the file.
    """
    if options.name not in ENGINES:
        raise InputError(f"no engine {options.name!r}; there are {', '.join(ENGINES)}.")
    check_engine(options)
    return ENGINES[options.name](path, options)
