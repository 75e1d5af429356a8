"""Recurrent layers: an input projection of all steps at once, then step after step.

Shapes: x (steps, batch, inputs); states (batch, hidden). "reverse" takes the steps from the last to
the first and gives them in that order; the second half of a "bidirectional" layer gives each step
at its own place. Results are the hidden states of every step, or of the last one, (steps or 1,
batch, hidden), and the final states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobile_runtime.mlprogram.dtypes import Array

from ..registry import UnsupportedOperation, register
from ..values import Weight
from .activation import relu, sigmoid, sigmoid_hard
from .linear import multiply_rows

Activation = Callable[[Array], Array]


def _hard(x: Array) -> Array:
    return sigmoid_hard(x, 0.2, 0.5)


# Each with its usual constants: a scaled tanh is then a tanh.
_ACTIVATIONS: dict[str, Activation] = {
    "linear": lambda x: x,
    "relu": relu,
    "sigmoid": sigmoid,
    "hard_sigmoid": _hard,
    "sigmoid_hard": _hard,
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
}


def _activation(name: Any) -> Activation:
    if str(name).lower() not in _ACTIVATIONS:
        raise UnsupportedOperation(
            f"Activation {str(name)!r} is not known; allowed are {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[str(name).lower()]


def _is_reversed(direction: Any, *others: str) -> bool:
    allowed = ("forward", "reverse", *others)
    if str(direction) not in allowed:
        raise UnsupportedOperation(
            f"Direction {str(direction)!r} is not known; allowed are {', '.join(allowed)}."
        )
    return str(direction) == "reverse"


def _project(x: Array, weight: Array | Weight, bias: Array | None, is_reversed: bool) -> Array:
    """x · weightᵀ + bias for every step, in the order in which steps are taken."""
    steps = x[::-1] if is_reversed else x
    flat = np.ascontiguousarray(steps).reshape(-1, x.shape[-1])
    product = np.asarray(multiply_rows(flat, weight)).reshape(*x.shape[:-1], -1)
    return product if bias is None else product + bias


def _steps(states: list[Array], output_sequence: Any) -> Array:
    return np.stack(states if output_sequence else states[-1:])


@register("rnn", weights=("weight_ih",))
def rnn(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    initial_h: Array,
    weight_ih: Array | Weight,
    weight_hh: Array,
    bias: Array | None = None,
    direction: Any = "forward",
    output_sequence: Any = False,
    activation: Any = "tanh",
) -> tuple[Array, Array]:
    """h ← activation(W_ih · x + W_hh · h + bias), step by step."""
    act = _activation(activation)
    h, states = initial_h, list[Array]()
    for projected in _project(x, weight_ih, bias, _is_reversed(direction)):
        h = act(projected + h @ weight_hh.T)
        states.append(h)
    return _steps(states, output_sequence), h


@register("gru", weights=("weight_ih",))
def gru(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    initial_h: Array,
    weight_ih: Array | Weight,
    weight_hh: Array,
    bias: Array | None = None,
    direction: Any = "forward",
    output_sequence: Any = False,
    recurrent_activation: Any = "sigmoid",
    activation: Any = "tanh",
    reset_after: Any = False,
    input_bias: Array | None = None,
) -> tuple[Array, Array]:
    """h ← (1 − z) · o + z · h, step by step; gates lie in the order reset, output, update.

    The reset gate multiplies h before its matrix product or, with `reset_after`, the product and
    its bias, as PyTorch does.
    """
    gate, act = _activation(recurrent_activation), _activation(activation)
    size = weight_hh.shape[1]
    of_reset, of_output, of_update = (weight_hh[n * size : (n + 1) * size].T for n in range(3))
    biases = np.zeros(3 * size, np.float32) if bias is None else bias
    reset_bias, output_bias, update_bias = np.split(biases, 3)
    h, states = initial_h, list[Array]()
    for projected in _project(x, weight_ih, input_bias, _is_reversed(direction)):
        for_reset, for_output, for_update = np.split(projected, 3, axis=-1)
        r = gate(for_reset + h @ of_reset + reset_bias)
        z = gate(for_update + h @ of_update + update_bias)
        if reset_after:
            o = act(for_output + r * (h @ of_output + output_bias))
        else:
            o = act(for_output + (r * h) @ of_output + output_bias)
        h = (1 - z) * o + z * h
        states.append(h)
    return _steps(states, output_sequence), h


@dataclass(frozen=True)
class _Cell:
    """One direction of an LSTM: gates lie in the order input, forget, output, cell."""

    weight_ih: Array | Weight
    weight_hh: Array
    bias: Array | None
    peephole: Array | None
    activations: tuple[Activation, Activation, Activation]  # of gates, cell and output
    clip: Array | None

    def run(
        self, x: Array, h: Array, c: Array, is_reversed: bool
    ) -> tuple[list[Array], Array, Array]:
        """Hidden states in the order in which steps are taken, and the final h and c."""
        gate, candidate, output = self.activations
        size = self.weight_hh.shape[1]
        no_peephole = np.zeros(3 * size, np.float32)
        to_input, to_forget, to_output = np.split(
            no_peephole if self.peephole is None else self.peephole, 3
        )
        states: list[Array] = []
        for projected in _project(x, self.weight_ih, self.bias, is_reversed):
            i, f, o, z = np.split(projected + h @ self.weight_hh.T, 4, axis=-1)
            kept = gate(f + c * to_forget) * c
            c = kept + gate(i + c * to_input) * candidate(z)
            if self.clip is not None:
                c = np.clip(c, -self.clip, self.clip)
            h = gate(o + c * to_output) * output(c)
            states.append(h)
        return states, h, c


@register("lstm", weights=("weight_ih", "weight_ih_back"))
def lstm(  # noqa: PLR0913 — the operation's own signature
    x: Array,
    initial_h: Array,
    initial_c: Array,
    weight_ih: Array | Weight,
    weight_hh: Array,
    bias: Array | None = None,
    peephole: Array | None = None,
    weight_ih_back: Array | Weight | None = None,
    weight_hh_back: Array | None = None,
    bias_back: Array | None = None,
    peephole_back: Array | None = None,
    direction: Any = "forward",
    output_sequence: Any = False,
    recurrent_activation: Any = "sigmoid",
    cell_activation: Any = "tanh",
    activation: Any = "tanh",
    clip: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Long short-term memory; the cell is limited to ± `clip`. Both directions of a bidirectional
    layer lie side by side in the last axis of states and results."""
    acts = _activation(recurrent_activation), _activation(cell_activation), _activation(activation)
    is_reversed = _is_reversed(direction, "bidirectional")
    first = _Cell(weight_ih, weight_hh, bias, peephole, acts, clip)
    if str(direction) != "bidirectional":
        states, h, c = first.run(x, initial_h, initial_c, is_reversed)
        return _steps(states, output_sequence), h, c
    if weight_ih_back is None or weight_hh_back is None:
        raise UnsupportedOperation(
            "A bidirectional lstm needs weight_ih_back and weight_hh_back; give both."
        )
    second = _Cell(weight_ih_back, weight_hh_back, bias_back, peephole_back, acts, clip)
    size = weight_hh.shape[1]
    states, h, c = first.run(x, initial_h[:, :size], initial_c[:, :size], False)
    back, h_back, c_back = second.run(x, initial_h[:, size:], initial_c[:, size:], True)
    pairs = list(zip(states, back[::-1], strict=True)) if output_sequence else [(h, h_back)]
    sequence = np.stack([np.concatenate(pair, axis=-1) for pair in pairs])
    return sequence, np.concatenate([h, h_back], axis=-1), np.concatenate([c, c_back], axis=-1)
