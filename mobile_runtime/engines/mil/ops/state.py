"""States: arrays that stay between calls. A state's value is the array itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register


@register("read_state", result="viewed")
def read_state(input: Array) -> Array:
    """The state's present value."""
    return input


def copy_state(input: Array) -> Array:
    """The state's present value, which later writes do not change."""
    return input.copy()


@register("write_state")
def write_state(input: Array, data: Array, detach: Callable[[Array], None]) -> None:
    """Make `data` the state's value; nothing to do if it was computed in place."""
    if data is input:
        return
    detach(input)
    np.copyto(input, data)
