"""States, which are tensors that stay between calls. A state's value is the tensor itself."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..forms import form


@form("read_state", tensors=("input",))
def read_state(input: Tensor) -> Tensor:
    """The state's present value."""
    return input


@form("write_state", tensors=("input", "data"))
def write_state(input: Tensor, data: Tensor, detach: Callable[[Tensor], None]) -> None:
    """Make `data` the state's value; nothing to do if it was computed in place."""
    if data is input:
        return
    detach(input)
    input.copy_(data)
