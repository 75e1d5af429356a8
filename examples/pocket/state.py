"""A run on disk: weights, probes and optimizer moments in one safetensors file, for resuming; and
the model in the published checkpoint layout, for shipping."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from examples.pocket.architecture import CONFIG, PREPROCESSOR, RELEASE
from examples.pocket.optimizers import Optimizers
from examples.pocket.tokenizer import write_tokenizer
from export.calibration.chat_format import open_chat_format
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.source import check_tensors
from export.models.tensors import tensor_shapes
from export.releases import find_release, load_config, parse_config, read_config
from export.releases.release import RELEASE_NAME
from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json, written_whole

WEIGHTS_FILE = "model.safetensors"
STATE_FILE = "state.safetensors"
_FACTS = {"step", "seconds", "drawn", "begin", "fitting", "began_with", "device"}  # in the state
FACTS_FILE = "training.json"  # in the checkpoint
_REMEDY = "give a checkpoint that this command wrote"


def save_state(folder: Path, optimizers: Optimizers, facts: dict[str, Any]) -> None:
    """Write everything that a resumed run needs; `facts` are what JSON can hold."""
    assert facts.keys() == _FACTS
    tensors = {f"weight.{name}": p.detach() for name, p in optimizers.named.items()}
    with written_whole(folder / STATE_FILE) as partial:
        save_file(tensors | optimizers.state(), partial, metadata={"facts": json.dumps(facts)})


def load_state(folder: Path, optimizers: Optimizers) -> dict[str, Any]:
    """Fill parameters and optimizers from `save_state`'s file; returns its facts."""
    with safe_open(folder / STATE_FILE, "pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with torch.no_grad():
        for name, parameter in optimizers.named.items():
            parameter.copy_(tensors.pop(f"weight.{name}"))
    optimizers.load(tensors)
    return facts


def check_state(folder: Path, named: Mapping[str, Tensor], device: str) -> None:
    """Raises `InputError` unless `folder` holds a state of a run that trains the parameters `named`
    on such a `device`: the stages differ by device."""
    path = folder / STATE_FILE
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
    except SafetensorError as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove {folder}, or give another --output."
        ) from error
    wanted = {f"weight.{name}": tuple(p.shape) for name, p in named.items()}
    if facts.keys() != _FACTS or any(shapes.get(name) != shape for name, shape in wanted.items()):
        raise InputError(
            f"{path} is of an earlier recipe; go on from its checkpoint "
            f"with --weights {folder / 'checkpoint'} and another --output."
        )
    if facts["device"] != device:
        raise InputError(
            f"{path} is of a run with --device {facts['device']}; resume it with the same."
        )


def load_weights(checkpoint: Path, model: nn.Module) -> dict[str, Any]:
    """Fill `model` from a checkpoint that `write_weights` wrote; returns what is known of its
    training."""
    with safe_open(checkpoint / WEIGHTS_FILE, "pt") as file, torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(file.get_tensor(name))
    return read_json(checkpoint / FACTS_FILE, _REMEDY)


def check_weights(checkpoint: Path) -> None:
    """Raises `InputError` unless `checkpoint` is a whole pocket model of these sizes with facts of
    its training."""
    config = load_config(checkpoint)
    if config != parse_config(CONFIG):
        raise InputError(
            f"{checkpoint} is no pocket model: its config.json differs from that of "
            "examples/pocket/architecture.py; give one that this command wrote."
        )
    release = find_release(read_config(checkpoint))
    check_tensors(Checkpoint(checkpoint), tensor_shapes(config), str(checkpoint), release.title)
    open_chat_format(checkpoint)
    facts = checkpoint / FACTS_FILE
    if not facts.is_file() or "drawn_per_worker" not in read_json(facts, _REMEDY):
        raise InputError(
            f"{checkpoint} has no {FACTS_FILE} that tells how it was trained; give a checkpoint "
            "that this command wrote."
        )


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
    with written_whole(folder / WEIGHTS_FILE) as partial:
        save_file(tensors, partial)
        partial.chmod(0o644)  # the library makes files that only their owner reads
