"""Core ML's own `predict`, on macOS, with any compute unit."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.engines.states import write_beginning
from mobile_runtime.errors import InputError


class CoreMLEngine:
    """One package; each of its functions is loaded when it is first called."""

    def __init__(self, package: Path, compute_units: str) -> None:
        if platform.system() != "Darwin":
            raise InputError(
                "the engine coreml needs macOS; use the engine mil, which runs everywhere."
            )
        import coremltools as ct

        units = ct.ComputeUnit[compute_units]
        self._open = partial(ct.models.MLModel, str(package), compute_units=units)
        self._models: dict[str | None, Any] = {}

    def _model(self, function: str | None) -> Any:
        name = None if function == "main" else function
        if name not in self._models:
            self._models[name] = self._open(function_name=name)
        return self._models[name]

    def new_state(self, length: int = 0) -> Any:
        """A Core ML state of fixed shape (`length` is not used), made by the function `decode` and
        valid for `prefill` too."""
        return self._model("decode").make_state()

    def read_state(self, state: Any, name: str) -> np.ndarray:
        """A copy of the array `name` of a state."""
        return np.array(state.read_state(name))

    def write_state(self, state: Any, name: str, value: np.ndarray) -> None:
        """Overwrite the beginning of the array `name`: along each axis as far as `value` goes."""
        whole = self.read_state(state, name)
        write_beginning(whole, value)
        state.write_state(name, whole)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        function: str | None = None,
        state: Any = None,
    ) -> dict[str, np.ndarray]:
        """Call one function; outputs by name as float32."""
        model = self._model(function)
        arrays = {
            name: value.astype(np.int32 if value.dtype.kind == "i" else np.float16)
            for name, value in inputs.items()
        }
        outputs = model.predict(arrays, state) if state is not None else model.predict(arrays)
        return {name: np.asarray(value, np.float32) for name, value in outputs.items()}
