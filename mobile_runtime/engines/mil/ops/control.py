"""Control flow. Blocks are functions from their inputs to a tuple of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import register

Blocks = Sequence[Callable[..., tuple[Any, ...]]]


@register("cond", result="viewed")
def cond(pred: Array, blocks: Blocks) -> tuple[Any, ...]:
    """The outputs of the first block if `pred`, else of the second."""
    return blocks[0]() if pred else blocks[1]()


@register("while_loop", result="viewed", lists=("loop_vars",))
def while_loop(loop_vars: tuple[Any, ...], blocks: Blocks) -> tuple[Any, ...]:
    """Apply the second block to the loop's values while the first gives true."""
    condition, body = blocks
    while condition(*loop_vars)[0]:
        loop_vars = body(*loop_vars)
    return loop_vars
