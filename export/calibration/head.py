"""What follows the last block: the final norm and the head, some positions at a time, since the
logits of all positions would not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.calibration.torch_ops import Compute, TorchOps, as_tensor
from export.checkpoint.source import TensorReader
from export.graphs.parameters import stored
from export.models.config import DecoderConfig
from export.models.tensors import FINAL_NORM, LM_HEAD

_POSITIONS = 256  # whose logits are computed together


@dataclass(frozen=True)
class Head:
    """The final norm and the head of `source`."""

    source: TensorReader
    compute: Compute
    decoder: DecoderConfig

    def logits(self, x: Tensor) -> Tensor:
        """Logits (positions, V) in float32 of states x (positions, D) after the last block."""
        norm = stored(FINAL_NORM, self.decoder.hidden_size)
        normed = self._ops.rms_norm(x, norm, self.decoder.stream_eps)
        return functional.linear(normed.to(self.compute.dtype), self._matrix).float()

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
