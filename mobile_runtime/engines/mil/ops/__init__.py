"""The operations by family; importing this package registers all of them."""

from . import (
    activation,
    control,
    conv,
    elementwise,
    gather_scatter,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resizing,
    shape,
    slicing,
    sorting,
    state,
)

__all__ = [
    "activation",
    "control",
    "conv",
    "elementwise",
    "gather_scatter",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "reduction",
    "resizing",
    "shape",
    "slicing",
    "sorting",
    "state",
]
