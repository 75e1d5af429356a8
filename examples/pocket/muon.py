"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum, orthogonalized.

torch.optim.Muon of torch 2.13 does the same, but always in bfloat16, which processors without
bfloat16 units emulate: there its step takes ten times as long as the gradients.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, from the same page
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """For matrices only. `lr` is the size of a step in spectral norm, times √(rows/columns)."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step with Nesterov momentum. Parallel workers share the work: all have the same
        gradients, and each orthogonalizes its part of the matrices, those of one size together."""
        parallel = dist.is_initialized()
        workers, rank = (dist.get_world_size(), dist.get_rank()) if parallel else (1, 0)
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            updates = [self._advance(parameter, group["momentum"]) for parameter in given]
            mine: dict[torch.Size, list[int]] = {}
            for n, update in enumerate(updates):
                if n % workers == rank:
                    mine.setdefault(update.shape, []).append(n)
                else:
                    update.zero_()
            for numbers in mine.values():
                orthogonal = orthogonalize(torch.stack([updates[n] for n in numbers]))
                for n, update in zip(numbers, orthogonal, strict=True):
                    updates[n] = update
            if workers > 1 and given:
                flat = torch.cat([update.flatten() for update in updates])
                dist.all_reduce(flat)
                parts = torch.split(flat, [update.numel() for update in updates])
                updates = [p.view_as(u) for p, u in zip(parts, updates, strict=True)]
            for parameter, update in zip(given, updates, strict=True):
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                size = group["lr"] * max(1.0, rows / columns) ** 0.5
                parameter.add_(update, alpha=-size)

    def _advance(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Add the gradient to the momentum; return the gradient with Nesterov's look-ahead."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Nearly the nearest matrices (n, rows, columns) with all singular values one (they come out in
    0.7 … 1.2)."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
