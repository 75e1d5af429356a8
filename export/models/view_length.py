"""How many patches the longest view has: the static length of the vision graphs."""

from __future__ import annotations

import math

MAX_ASPECT_RATIO = 20
_ALIGNMENT = 32


def max_view_patches(scale_resolution: int, patch_size: int) -> int:
    """Patches of the largest view of any picture between 1:20 and 20:1, rounded up to 32.

    A view of aspect ratio r = width/height has height int(S/√r) and width int(height·r), each
    rounded to whole patches. For every height, the widest view within it is the largest.
    """
    largest = 0
    span = math.sqrt(MAX_ASPECT_RATIO)
    for height in range(int(scale_resolution / span), int(scale_resolution * span) + 1):
        ratio = min(float(MAX_ASPECT_RATIO), (scale_resolution / height) ** 2)
        rows = max(round(height / patch_size), 1)
        largest = max(largest, rows * max(round(int(height * ratio) / patch_size), 1))
    return -(-largest // _ALIGNMENT) * _ALIGNMENT
