"""`python -m tests.export.checkpoint.write_adapters`: adapters to the random checkpoint and the
digests of what PEFT itself merges, for the tests. Needs peft; its version is kept with the digests.

    pip install peft==0.21.2
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from torch import nn

from tests.random_checkpoint import write_random_checkpoint

FOLDER = Path(__file__).parent / "adapters"
_ALL = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
_CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {"r": 2, "lora_alpha": 3, "target_modules": _ALL},
    "rslora": {
        "r": 3,
        "lora_alpha": 5,
        "use_rslora": True,
        "target_modules": ["q_proj", "mlp.down_proj", "fc1"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 9},
    },
    "dora": {"r": 2, "lora_alpha": 4, "use_dora": True, "target_modules": ["v_proj", "up_proj"]},
    "embedding": {"r": 2, "target_modules": ["embed_tokens"], "modules_to_save": ["kv_proj"]},
}
_MERGES = {
    **{name: [(name, 1.0)] for name in _CONFIGS},
    "weighted": [("lora", 0.5)],
    "two": [("lora", 1.0), ("rslora", -0.75)],
}


def model(folder: Path) -> nn.Module:
    """Modules of the names and weights in a checkpoint."""
    root, tensors = nn.Module(), load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        here = root
        for n, part in enumerate(path, 1):
            if not hasattr(here, part):
                weight = tensors.get(".".join([*path[:n], "weight"]))
                here.add_module(part, _module(part, weight))
            here = getattr(here, part)
        setattr(here, last, nn.Parameter(tensor, requires_grad=False))
    return root


def _module(name: str, weight: torch.Tensor | None) -> nn.Module:
    if weight is None or weight.dim() != 2:
        return nn.Module()
    rows, columns = weight.shape
    embeds = name == "embed_tokens"
    return nn.Embedding(rows, columns) if embeds else nn.Linear(columns, rows, bias=False)


def _randomized(wrapped: Any, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= 1 + 0.1 * torch.randn(parameter.shape, generator=random)
        elif "lora_" in name or "modules_to_save" in name:
            noise = torch.randn(parameter.shape, generator=random)
            parameter.data = (0.2 * noise).to(parameter.dtype)


def main() -> None:
    """Write adapters, and by merge the SHA-256 of each tensor that it changes."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    digests: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as work:
        checkpoint = Path(work) / "checkpoint"
        write_random_checkpoint(checkpoint)
        before = load_file(checkpoint / "model.safetensors")
        for seed, (name, options) in enumerate(_CONFIGS.items()):
            wrapped = peft.get_peft_model(model(checkpoint), peft.LoraConfig(**options))
            _randomized(wrapped, seed)
            wrapped.save_pretrained(FOLDER / name)
            (FOLDER / name / "README.md").unlink()
        for merge, parts in _MERGES.items():
            merged = model(checkpoint)
            for name, weight in parts:
                wrapped = peft.PeftModel.from_pretrained(merged, FOLDER / name)
                for module in wrapped.modules():
                    if isinstance(module, peft.tuners.lora.LoraLayer):
                        module.set_scale("default", weight)
                merged = wrapped.merge_and_unload()
            after = merged.state_dict()
            digests[merge] = {
                name: _sha256(after[name].to(tensor.dtype))
                for name, tensor in before.items()
                if not torch.equal(after[name], tensor)
            }
    record = {"peft": peft.__version__, "merges": _MERGES, "sha256": digests}
    (FOLDER / "merged.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main()
