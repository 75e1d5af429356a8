"""Recurrent layers equal PyTorch's, and the equations where PyTorch has no such layer."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
mb = pytest.importorskip("coremltools.converters.mil").Builder

RNG = np.random.default_rng(5)
STEPS, BATCH, INPUTS, HIDDEN = 5, 3, 4, 6


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def numpy(*tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def reordered(weight, order):
    """Blocks of rows of PyTorch's weight or bias in Core ML's order."""
    parts = np.split(weight.detach().numpy(), len(order))
    return np.concatenate([parts[n] for n in order])


def flipped(x, direction):
    """What PyTorch is given: "reverse" takes the steps from the last one on."""
    return torch.from_numpy(x[::-1].copy() if direction == "reverse" else x)


def all_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-6)


IFOZ = (0, 1, 3, 2)  # of PyTorch's input, forget, cell, output
ROZ = (0, 2, 1)  # of PyTorch's reset, update, new


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("sequence", [True, False])
def test_lstm_equals_torch(direction, sequence, execute):
    layer = torch.nn.LSTM(INPUTS, HIDDEN)
    x, h, c = normal(STEPS, BATCH, INPUTS), normal(BATCH, HIDDEN), normal(BATCH, HIDDEN)
    states, (h_last, c_last) = layer(
        flipped(x, direction), (torch.from_numpy(h)[None], torch.from_numpy(c)[None])
    )
    bias = reordered(layer.bias_ih_l0, IFOZ) + reordered(layer.bias_hh_l0, IFOZ)

    def build(x, h, c):
        return mb.lstm(
            x=x,
            initial_h=h,
            initial_c=c,
            weight_ih=reordered(layer.weight_ih_l0, IFOZ),
            weight_hh=reordered(layer.weight_hh_l0, IFOZ),
            bias=bias,
            direction=direction,
            output_sequence=sequence,
        )

    found = execute("lstm", build, {"x": x, "h": h, "c": c})
    all_close(found, numpy(states if sequence else states[-1:], h_last[0], c_last[0]))


@pytest.mark.parametrize("sequence", [True, False])
def test_bidirectional_lstm_equals_torch(sequence, execute):
    layer = torch.nn.LSTM(INPUTS, HIDDEN, bidirectional=True)
    x, h, c = normal(STEPS, BATCH, INPUTS), normal(2, BATCH, HIDDEN), normal(2, BATCH, HIDDEN)
    states, (h_last, c_last) = layer(
        torch.from_numpy(x), (torch.from_numpy(h), torch.from_numpy(c))
    )
    if not sequence:  # the last step of each direction
        states = torch.cat(list(h_last), -1)[None]
    weights = {
        name + end: reordered(getattr(layer, f"{name}_l0{'_reverse' if end else ''}"), IFOZ)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        for end in ("", "_back")
    }
    for end in ("", "_back"):
        weights["bias" + end] = weights.pop("bias_ih" + end) + weights.pop("bias_hh" + end)

    def build(x, h, c):
        options = {"direction": "bidirectional", "output_sequence": sequence}
        return mb.lstm(x=x, initial_h=h, initial_c=c, **weights, **options)

    given = {"x": x, "h": np.concatenate(h, -1), "c": np.concatenate(c, -1)}
    found = execute("lstm", build, given)
    all_close(found, numpy(states, torch.cat(list(h_last), -1), torch.cat(list(c_last), -1)))


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_lstm_with_peepholes_follows_its_equations(name, clip, execute):
    act = ACTIVATIONS[name]
    x, zero = normal(STEPS, BATCH, INPUTS), np.zeros((BATCH, HIDDEN), np.float32)
    w, r, b, p = (normal(*s) / 4 for s in ((24, INPUTS), (24, HIDDEN), (24,), (18,)))
    h, c = zero, zero
    for step in x:
        i, f, o, z = np.split(step @ w.T + h @ r.T + b, 4, axis=-1)
        p_i, p_f, p_o = np.split(p, 3)
        c = act(f + c * p_f) * c + act(i + c * p_i) * np.tanh(z)
        c = c if clip is None else np.clip(c, -clip, clip)
        h = act(o + c * p_o) * act(c)

    def build(x):
        limits = {} if clip is None else {"clip": np.float32(clip)}
        names = {"recurrent_activation": name, "activation": name, "cell_activation": "tanh"}
        starts = {"initial_h": zero, "initial_c": zero}
        weights = {"weight_ih": w, "weight_hh": r, "bias": b, "peephole": p}
        return mb.lstm(x=x, **starts, **weights, **names, **limits)

    all_close(execute("lstm", build, {"x": x}), (h[None], h, c))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("sequence", [True, False])
def test_gru_that_resets_after_equals_torch(direction, sequence, execute):
    layer = torch.nn.GRU(INPUTS, HIDDEN)
    x, h = normal(STEPS, BATCH, INPUTS), normal(BATCH, HIDDEN)
    states, last = layer(flipped(x, direction), torch.from_numpy(h)[None])

    def build(x, h):
        return mb.gru(
            x=x,
            initial_h=h,
            weight_ih=reordered(layer.weight_ih_l0, ROZ),
            weight_hh=reordered(layer.weight_hh_l0, ROZ),
            bias=reordered(layer.bias_hh_l0, ROZ),
            input_bias=reordered(layer.bias_ih_l0, ROZ),
            reset_after=True,
            direction=direction,
            output_sequence=sequence,
        )

    found = execute("gru", build, {"x": x, "h": h})
    all_close(found, numpy(states if sequence else states[-1:], last[0]))


def test_gru_that_resets_before_follows_its_equations(execute):
    x, h = normal(STEPS, BATCH, INPUTS), normal(BATCH, HIDDEN)
    w, r, b = normal(18, INPUTS), normal(18, HIDDEN), normal(18)
    (w_r, w_o, w_z), (r_r, r_o, r_z), (b_r, b_o, b_z) = (np.split(a, 3) for a in (w, r, b))
    sigmoid, state, states = ACTIVATIONS["sigmoid"], h, []
    for step in x:
        reset = sigmoid(step @ w_r.T + state @ r_r.T + b_r)
        update = sigmoid(step @ w_z.T + state @ r_z.T + b_z)
        new = np.tanh(step @ w_o.T + (reset * state) @ r_o.T + b_o)
        state = (1 - update) * new + update * state
        states.append(state)

    def build(x, h):
        weights = {"weight_ih": w, "weight_hh": r, "bias": b}
        return mb.gru(x=x, initial_h=h, **weights, output_sequence=True)

    all_close(execute("gru", build, {"x": x, "h": h}), (np.stack(states), state))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_rnn_equals_torch(direction, activation, execute):
    layer = torch.nn.RNN(INPUTS, HIDDEN, nonlinearity=activation)
    x, h = normal(STEPS, BATCH, INPUTS), normal(BATCH, HIDDEN)
    states, last = layer(flipped(x, direction), torch.from_numpy(h)[None])
    bias = sum(numpy(layer.bias_ih_l0, layer.bias_hh_l0))

    def build(x, h):
        weights = dict(zip(("weight_ih", "weight_hh"), numpy(*layer.parameters()), strict=False))
        options = {"direction": direction, "output_sequence": True, "activation": activation}
        return mb.rnn(x=x, initial_h=h, bias=bias, **weights, **options)

    all_close(execute("rnn", build, {"x": x, "h": h}), numpy(states, last[0]))
