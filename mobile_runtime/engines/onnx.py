"""onnxruntime: one graph, its key/value buffers shared by input and output and never copied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mobile_runtime.bundle import InputError

_PAST, _PRESENT = "past_key_values.", "present."
_DTYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
_EXACT = "1"  # accuracy level of products with quantized weights: float32 activations


class OnnxEngine:
    """One graph. `exact` keeps activations in float32 where products with standard quantized
    weights are fused. `whole_sums` keeps products of 8-bit integers from overflowing 16 bits on x86
    without VNNI; onnxruntime 1.32 breaks blocked weights by it. `threads` 0 leaves their number to
    onnxruntime."""

    def __init__(
        self, graph: Path, *, exact: bool = False, whole_sums: bool = False, threads: int = 0
    ) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise InputError(
                "onnxruntime is not installed; run pip install 'minicpmv-mobile[onnx]'."
            ) from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if whole_sums:
            options.add_session_config_entry("session.x64quantprecision", "1")
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", _EXACT)
        self._values: Any = ort.OrtValue
        try:
            self._session: Any = ort.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises types of its own, by cause
            raise InputError(
                f"onnxruntime {ort.__version__} cannot open {graph.name} ({_first_line(error)}); "
                "copy the bundle again or use onnxruntime 1.32 or later."
            ) from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def new_state(self, length: int) -> dict[str, Any]:
        """Zeroed buffers for the keys and values of `length` positions, by input."""
        return {
            value.name: self._values.ortvalue_from_numpy(
                np.zeros((1, value.shape[1], length, value.shape[3]), _DTYPES[value.type])
            )
            for value in self._session.get_inputs()
            if value.name.startswith(_PAST)
        }

    def run(
        self, inputs: Mapping[str, np.ndarray], *, state: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs by name, without the buffers of `state`, which are written in place."""
        if state is None:
            return dict(
                zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True)
            )
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name, buffer in state.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace(_PAST, _PRESENT), buffer)
        wanted = [name for name in self._outputs if not name.startswith(_PRESENT)]
        for name in wanted:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        values = binding.get_outputs()
        names = [*(name.replace(_PAST, _PRESENT) for name in state), *wanted]
        found = dict(zip(names, values, strict=True))
        return {name: found[name].numpy() for name in wanted}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
