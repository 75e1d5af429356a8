"""A run on disk: weights, probes and optimizer moments in one safetensors file, for resuming; and
the model in the published checkpoint layout, for shipping."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

from examples.pocket.architecture import CONFIG, PREPROCESSOR, RELEASE
from examples.pocket.optimizers import Optimizers
from examples.pocket.tokenizer import write_tokenizer
from export.models.release import RELEASE_NAME

STATE_FILE = "state.safetensors"
FACTS_FILE = "training.json"  # in the checkpoint


def save_state(folder: Path, optimizers: Optimizers, facts: dict[str, float]) -> None:
    """Write everything that a resumed run needs; `facts` are counters."""
    tensors = {f"weight.{name}": p.detach() for name, p in optimizers.named.items()}
    partial = folder / f".{STATE_FILE}.partial"
    save_file(tensors | optimizers.state(), partial, metadata={"facts": json.dumps(facts)})
    partial.rename(folder / STATE_FILE)


def load_state(folder: Path, optimizers: Optimizers) -> dict[str, float]:
    """Fill parameters and optimizers from `save_state`'s file; returns its facts."""
    with safe_open(folder / STATE_FILE, "pt") as file:
        facts: dict[str, float] = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with torch.no_grad():
        for name, parameter in optimizers.named.items():
            parameter.copy_(tensors.pop(f"weight.{name}"))
    optimizers.load(tensors)
    return facts


def prepare_checkpoint(folder: Path, tokenizer: Tokenizer) -> None:
    """Everything of the checkpoint but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | {"torch_dtype": "bfloat16"}
    files = {
        "config.json": config,
        "preprocessor_config.json": PREPROCESSOR,
        RELEASE_NAME: RELEASE.as_json(),
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    write_tokenizer(folder, tokenizer)


def write_weights(folder: Path, model: nn.Module) -> None:
    """The weights in bf16 under the published names, where `python -m export` finds them."""
    tensors = {n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.named_parameters()}
    partial = folder / ".model.safetensors.partial"
    save_file(tensors, partial)
    partial.chmod(0o644)  # the library makes files that only their owner reads
    partial.rename(folder / "model.safetensors")
