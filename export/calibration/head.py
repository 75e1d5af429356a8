"""What follows the last block: the final norm and the head, some positions at a time, since the
logits of all positions would not fit.

The head is finished like the matrices before it: by error feedback, and so that it makes up for
what these have lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.calibration.drift import Drift
from export.calibration.layers import Inputs, measure
from export.calibration.torch_ops import Compute, TorchOps, as_tensor
from export.checkpoint.rotation import RotatedSource
from export.checkpoint.source import TensorReader
from export.graphs.graph import Parameter
from export.graphs.parameters import stored
from export.models.config import DecoderConfig
from export.models.tensors import FINAL_NORM, LM_HEAD
from export.quant.feedback import PLAIN, quantize_with_feedback
from export.quant.recipe import QuantSpec
from export.quant.weights import Weight

_POSITIONS = 256  # whose logits are computed together


@dataclass(frozen=True)
class Head:
    """The final norm and the head of `source`."""

    source: TensorReader
    compute: Compute
    decoder: DecoderConfig

    def logits(self, x: Tensor) -> Tensor:
        """Logits (positions, V) in float32 of states x (positions, D) after the last block."""
        return functional.linear(self.normed(x).to(self.compute.dtype), self._matrix).float()

    def normed(self, x: Tensor) -> Tensor:
        """What the matrix multiplies, (positions, D), of states after the last block."""
        norm = stored(FINAL_NORM, self.decoder.hidden_size)
        return self._ops.rms_norm(x, norm, self.decoder.stream_eps)

    def gradient(self, states: np.ndarray, loss: Callable[[Tensor, slice], Tensor]) -> np.ndarray:
        """The gradient (positions, D) at `states` (positions, D) of a loss that is a sum over
        positions: `loss` gives that of some positions from their logits."""
        found = []
        for begin in range(0, len(states), _POSITIONS):
            some = slice(begin, begin + _POSITIONS)
            x = torch.from_numpy(states[some]).to(self.compute.device).requires_grad_()
            (gradient,) = torch.autograd.grad(loss(self.logits(x), some), x)
            found.append(gradient.cpu().numpy())
        return np.concatenate(found)

    @cached_property
    def _ops(self) -> TorchOps:
        return TorchOps(self.source, self.compute)

    @cached_property
    def _matrix(self) -> Tensor:
        matrix = as_tensor(self.source.read(LM_HEAD))
        return matrix.to(self.compute.device, self.compute.dtype)


@torch.inference_mode()
def quantize_head(
    head: Head,
    ended: Inputs,
    parameters: Sequence[Parameter],
    specs: Mapping[str, QuantSpec],
) -> dict[str, Weight]:
    """The head of a rotated checkpoint in the parts that `parameters` are, as `specs` say, after
    states `ended` of the quantized model and exact ones."""
    source = head.source
    assert isinstance(source, RotatedSource) and ended.exact is not None
    x, exact = (
        head.normed(torch.from_numpy(states).to(head.compute.device))
        for states in (ended.hidden, ended.exact)
    )
    statistics = measure(x, ended.split, source.diagonal_part_of(LM_HEAD))
    halves = statistics.has_halves  # without which nothing tells how far to follow them
    drift = Drift.between(statistics, x, exact, None, None) if halves else None
    weights: dict[str, Weight] = {}
    expected: float | None = None
    for parameter in parameters:
        name, rows = parameter.name, parameter.inverse
        assert rows is not None and rows.end is not None
        values = source.read_rows(LM_HEAD, rows.begin, rows.end)
        values = values if drift is None else drift.corrected(values)
        padded = np.pad(values, ((0, parameter.shape[0] - len(values)), (0, 0)))
        weights[name], found = quantize_with_feedback(
            padded, specs[name], statistics, name=name, expected=expected
        )
        expected = expected if found == PLAIN else found
    return weights
