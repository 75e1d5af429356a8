"""A random checkpoint with faults of half precision planted in it, and an observer for tests."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.random_checkpoint import write_random_checkpoint

STREAM = "llm.model.layers.0.mlp"
VISION = "vpm.encoder.layers.1.self_attn"
CHANNEL, FEATURE, PEAK = 5, 7, 1000.0


def write_planted_checkpoint(folder: Path) -> None:
    """One channel of the residual stream reaches 3e5 after the first block, and one feature of a
    block's queries and keys in the vision tower is 1e3."""
    write_random_checkpoint(folder)
    path = folder / "model.safetensors"
    tensors = {name: values.copy() for name, values in load_file(path).items()}

    def change(name, function):
        values = tensors[name]
        tensors[name] = function(values.astype(np.float32)).astype(values.dtype)

    # silu(g)·64·g is never negative, and so large that a row of equal weights adds up to the peak.
    gate = tensors[f"{STREAM}.gate_proj.weight"].astype(np.float32)
    change(f"{STREAM}.up_proj.weight", lambda _: 64 * gate)
    change(f"{STREAM}.down_proj.weight", lambda w: _with_row(w / 64, CHANNEL, 18))
    for name in ("q_proj", "k_proj"):
        change(f"{VISION}.{name}.weight", lambda w: _with_row(w, FEATURE, 0))
        change(f"{VISION}.{name}.bias", lambda b: _with_row(b, FEATURE, PEAK))
    save_file(tensors, path)


def _with_row(values, row, value):
    values[row] = value
    return values


def collected():
    """What an observer was told of the last call, by name, and the observer."""
    found = {}

    def observe(package, function, operation, name, rounding):
        found[name] = rounding

    return found, observe
