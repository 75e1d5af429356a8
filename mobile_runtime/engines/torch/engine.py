"""Executes a saved `.mlpackage` with PyTorch, on a device that it knows.

Order, memory, states and errors are the interpreter's own (`MilEngine`); only what computes is
another: `TorchArithmetic`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mobile_runtime.engines.memory import Limits
from mobile_runtime.engines.mil import MilEngine, Precision
from mobile_runtime.mlprogram.program import Program

from .arithmetic import TorchArithmetic
from .device import check_device, limits_on


class TorchEngine(MilEngine):
    """One package, loaded. `device` is PyTorch's name of one, such as "cpu", "cuda" or "mps".
    Weights are expanded on it when they are first used, and stay. See `MilEngine` for the rest."""

    def __init__(
        self,
        package: str | Path,
        *,
        device: str = "cpu",
        precision: Precision = "fp16",
        limits: Limits = Limits(),
        program: Program | None = None,
        stores_half: bool | None = None,
    ) -> None:
        """Load `package`, or of a pipeline's package one `program`.

        `stores_half`: values that are declared half precision are stored and computed as such, if
        the precision is "fp16"; by default on every device but the CPU. Raises `InputError` for a
        device that PyTorch does not have here, and for what `MilEngine` refuses.
        """
        found = check_device(device)
        half = precision == "fp16"
        stores = half and (found.type != "cpu" if stores_half is None else stores_half)
        self._torch = TorchArithmetic(found, half, stores)
        super().__init__(
            package,
            precision=precision,
            cache_bytes=0,  # weights are kept on the device
            limits=limits_on(found, limits),
            program=program,
            arithmetic=self._torch,
        )

    @property
    def fallbacks(self) -> Mapping[str, int]:
        """Operations that had to leave the device, since they have no form in PyTorch here: types,
        with how often each did since the package was loaded."""
        return dict(self._torch.fallbacks.most_common())
