"""An example seen again in other colours: drawing a picture costs more than repainting it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from examples.pocket.example import BLANK, Bytes, Example, TrainingView

_DARKEST, _BRIGHTEST = (0, 60), (195, 255)  # what black and white become, before a swap
_CHANNELS = 3


def recolour(example: Example, rng: np.random.Generator) -> Example:
    """The example with each view's channels exchanged, its contrast less, half of them inverted.

    Only for what is asked of characters: the names of colours would no longer be true.
    """
    groups = tuple(
        replace(group, views=tuple(_recoloured(view, rng) for view in group.views))
        for group in example.groups
    )
    return replace(example, groups=groups)


def has_shapes(example: Example) -> bool:
    """Whether a colour may be asked for."""
    views = (view for group in example.groups for view in group.views)
    return any(bool((view.marks != BLANK).any()) for view in views)


def _recoloured(view: TrainingView, rng: np.random.Generator) -> TrainingView:
    ends = [rng.uniform(*_DARKEST), rng.uniform(*_BRIGHTEST)]
    if rng.random() < 0.5:
        ends.reverse()
    table = np.rint(np.linspace(ends[0], ends[1], 256)).astype(np.uint8)
    patches: Bytes = table[view.patches].reshape(len(view.patches), _CHANNELS, -1)
    exchanged = patches[:, rng.permutation(_CHANNELS)]
    return replace(view, patches=exchanged.reshape(view.patches.shape))
