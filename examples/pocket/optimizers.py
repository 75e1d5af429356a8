"""Two optimizers as one: Muon for the matrices of layers, AdamW for tables, vectors and probes."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from examples.pocket.curriculum import MATRIX_RATE, PEAK_RATE
from examples.pocket.muon import Muon

_MATRIX = re.compile(r"\.layers\.|resampler\.(kv_proj|attn|proj)")


class Optimizers:
    """Steps both; their state is a flat dict of tensors by parameter name."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.named = {
            f"{prefix}.{name}": parameter
            for prefix, module in modules.items()
            for name, parameter in module.named_parameters()
        }
        matrices = [p for n, p in self.named.items() if p.ndim == 2 and _MATRIX.search(n)]
        known = {id(p) for p in matrices}
        others = [p for p in self.named.values() if id(p) not in known]
        self._optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=MATRIX_RATE),
            torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        self._rates = (MATRIX_RATE, PEAK_RATE)

    def step(self, factor: float) -> None:
        """One step with the rates times `factor`; clears the gradients."""
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts as "kind.parameter"."""
        return {
            f"{kind}.{name}": value
            for name, parameter in self.named.items()
            for optimizer in self._optimizers
            for kind, value in optimizer.state.get(parameter, {}).items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Load what `state` returned."""
        for optimizer in self._optimizers:
            members = {id(p) for p in optimizer.param_groups[0]["params"]}
            for name, parameter in self.named.items():
                kinds = {
                    k.split(".", 1)[0]: v for k, v in state.items() if k.split(".", 1)[1] == name
                }
                if id(parameter) in members and kinds:  # counts of steps stay on the processor
                    device = parameter.device
                    optimizer.state[parameter] = {
                        kind: value.to(device) if value.ndim else value
                        for kind, value in kinds.items()
                    }
