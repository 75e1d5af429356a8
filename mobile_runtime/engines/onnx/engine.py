"""onnxruntime: one graph, its key/value buffers shared by input and output and never copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.bundle import PAST, PRESENT
from mobile_runtime.engines.onnx.sessions import (
    SessionSettings,
    arena_bytes,
    load_onnxruntime,
    open_session,
    reason_of,
    session_options,
)
from mobile_runtime.engines.states import write_beginning
from mobile_runtime.errors import InputError

_DTYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
_PLAIN = SessionSettings()


@dataclass
class OnnxState:
    """The buffers of a key/value cache by input name, bound as inputs and outputs once: to bind
    more than a hundred of them for each token takes as long as a layer of a small model."""

    buffers: dict[str, Any]
    length: int
    binding: Any


class OnnxEngine:
    """One graph with its session."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._values: Any = load_onnxruntime().OrtValue
        self._outputs = [output.name for output in session.get_outputs()]

    @classmethod
    def load(cls, graph: Path, settings: SessionSettings = _PLAIN) -> OnnxEngine:
        """Open a file. Raises `InputError` if onnxruntime is absent or refuses it."""
        return cls(open_session(graph, session_options(settings)))

    def new_state(self, length: int = 0) -> OnnxState:
        """Zeroed keys and values of `length` positions."""
        return self._state(length, {})

    def resized(self, state: OnnxState, length: int) -> OnnxState:
        """Return a state of `length` positions that begins with those of `state`; `state` is empty
        afterwards."""
        return self._state(length, state.buffers)

    def _state(self, length: int, old: dict[str, Any]) -> OnnxState:
        state = OnnxState({}, length, self._session.io_binding())
        for value in self._session.get_inputs():
            if not value.name.startswith(f"{PAST}."):
                continue
            shape = (1, value.shape[1], length, value.shape[3])
            rows = np.zeros(shape, _DTYPES[value.type])
            if value.name in old:
                kept = old.pop(value.name).numpy()
                rows[:, :, : kept.shape[2]] = kept[:, :, :length]
            buffer = self._values.ortvalue_from_numpy(rows)
            state.buffers[value.name] = buffer
            state.binding.bind_ortvalue_input(value.name, buffer)
            state.binding.bind_ortvalue_output(value.name.replace(PAST, PRESENT, 1), buffer)
        return state

    def read_state(self, state: OnnxState, name: str) -> np.ndarray:
        """The buffer `name` of a state, which `run` updates in place."""
        buffer: np.ndarray = state.buffers[name].numpy()
        return buffer

    def write_state(self, state: OnnxState, name: str, value: np.ndarray) -> None:
        """Overwrite the beginning of the buffer `name`: along each axis as far as `value` goes."""
        write_beginning(self.read_state(state, name), value)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        function: str | None = None,
        state: OnnxState | None = None,
    ) -> dict[str, np.ndarray]:
        """Return outputs by name, without the buffers of `state`, which are written in place. A
        graph has one function, `main`. Raises `InputError` if onnxruntime cannot compute them."""
        if function not in (None, "main"):
            raise InputError(f"an ONNX graph has no function {function!r}; it has main.")
        try:
            if state is None:
                results = self._session.run(self._outputs, dict(inputs))
                return dict(zip(self._outputs, results, strict=True))
            return self._run_bound(inputs, state)
        except Exception as error:  # onnxruntime raises types of its own, by cause
            raise InputError(
                f"onnxruntime cannot run the graph that makes {', '.join(self._outputs)[:80]} "
                f"({reason_of(error)}): it is damaged, or its values take more than "
                f"{arena_bytes() >> 30} GB; copy or export the bundle again."
            ) from error

    def _run_bound(
        self, inputs: Mapping[str, np.ndarray], state: OnnxState
    ) -> dict[str, np.ndarray]:
        for name, value in inputs.items():
            state.binding.bind_cpu_input(name, np.ascontiguousarray(value))
        wanted = [name for name in self._outputs if not name.startswith(f"{PRESENT}.")]
        for name in wanted:  # each time, or the last result would be overwritten
            state.binding.bind_output(name)
        self._session.run_with_iobinding(state.binding)
        found = state.binding.get_outputs()[-len(wanted) :]  # in the order of binding
        return {name: value.numpy() for name, value in zip(wanted, found, strict=True)}
