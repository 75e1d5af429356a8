"""The forms by family; importing this package registers all of them."""

from . import (
    activation,
    conv,
    elementwise,
    gather,
    linear,
    normalization,
    pooling,
    reduction,
    resizing,
    shape,
    slicing,
    sorting,
    state,
)

__all__ = [
    "activation",
    "conv",
    "elementwise",
    "gather",
    "linear",
    "normalization",
    "pooling",
    "reduction",
    "resizing",
    "shape",
    "slicing",
    "sorting",
    "state",
]
