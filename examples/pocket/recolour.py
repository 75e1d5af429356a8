"""A picture seen again in other colours: drawing it costs more than repainting it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_DARKEST, _BRIGHTEST = (0, 60), (195, 255)  # what black and white become, before a swap
_CHANNELS = 3


def recolour(pixels: Tensor, chosen: NDArray[np.bool_], rng: np.random.Generator) -> Tensor:
    """Return patches (V, L, 588) between -1 and 1 in which the views `chosen` (V,) have their
    channels exchanged and less contrast; half of these are inverted.

    Only for what is asked of characters: the names of colours would no longer be true.
    """
    count = len(chosen)
    ends = np.stack([rng.uniform(*_DARKEST, count), rng.uniform(*_BRIGHTEST, count)])
    ends = np.where(rng.random(count) < 0.5, ends, ends[::-1]) / 127.5 - 1
    low, high = np.where(chosen, ends, [[-1.0], [1.0]])
    order = np.tile(np.arange(_CHANNELS), (count, 1))
    order[chosen] = rng.permuted(order[chosen], axis=1)

    def of_each_view(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(pixels.device)[:, None, None]

    shown = pixels.view(*pixels.shape[:2], _CHANNELS, -1)
    shown = shown.take_along_dim(of_each_view(order).transpose(2, 3), 2).view_as(pixels)
    spread = of_each_view(((high - low) / 2).astype(np.float32))
    return shown * spread + of_each_view(((high + low) / 2).astype(np.float32))
