"""Final norm and LM head as packages of static shapes: one hidden state in, logits in slices out.

The Neural Engine takes no dimension above 16,384, so the vocabulary is padded and cut into equal
slices; the reader drops the padded logits.
"""

from __future__ import annotations

from collections.abc import Mapping

from export.graphs.bodies import Bodies
from export.graphs.graph import Function, Graph, Ops, Value
from export.graphs.parameters import stored
from export.models.config import DecoderConfig
from export.models.tensors import FINAL_NORM
from mobile_runtime.bundle import TensorSpec

MAX_DIMENSION = 16_384
_ALIGNMENT = 32


def lm_head_slices(vocab_size: int) -> tuple[int, int]:
    """Return (count, rows): the number of slices, a power of two, and the rows of each.

    Rows are a multiple of 32 and at most 16,384; 151,748 tokens give 16 slices of 9,504 rows.
    """
    needed = -(-vocab_size // MAX_DIMENSION)
    count = 1 << (needed - 1).bit_length()
    rows = -(-vocab_size // (count * _ALIGNMENT)) * _ALIGNMENT
    return count, rows


def lm_head_graph(bodies: Bodies, config: DecoderConfig, slices: range, name: str) -> Graph:
    """The package of `slices`; each package repeats the final norm."""
    size = config.hidden_size
    _, rows = lm_head_slices(config.vocab_size)

    def body(ops: Ops, inputs: Mapping[str, Value]) -> Mapping[str, Value]:
        weight = stored(FINAL_NORM, size)
        x = ops.rms_norm(inputs["hidden_states"], weight, config.stream_eps)
        return {
            f"logits_{n:02d}": ops.linear(x, bodies.head_rows(config, n, n * rows, (n + 1) * rows))
            for n in slices
        }

    hidden = TensorSpec("hidden_states", (1, size, 1, 1), "float16")
    outputs = tuple(TensorSpec(f"logits_{n:02d}", (1, rows, 1, 1), "float16") for n in slices)
    return Graph(name, "lm_head", (Function("main", (hidden,), outputs, body),), (), slices)
