"""MiniCPM-V 4.5 as one PyTorch module whose parameter names are the checkpoint's.

Parts are loaded when they are needed and can be dropped again, so that a model larger than memory
can be run part by part.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from export.checkpoint import TensorSource
from export.models.config import ModelConfig
from export.models.qwen3 import Qwen3
from export.models.resampler import Resampler
from export.models.siglip import VisionEncoder


class MiniCPMV(nn.Module):
    """`vpm` (vision tower), `resampler`, `llm` (decoder), named as published."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vpm = VisionEncoder(config.vision)
        self.resampler = Resampler(config)
        self.llm = Qwen3(config.decoder)


def build_empty(config: ModelConfig) -> MiniCPMV:
    """The module without weights: every parameter is on the device `meta`."""
    with torch.device("meta"):
        return MiniCPMV(config).eval().requires_grad_(False)


def load_part(model: MiniCPMV, part: str, source: TensorSource) -> None:
    """Read the float32 weights of the submodule called `part` ("llm.model.layers.3")."""
    module = model.get_submodule(part)
    names = [name for name, _ in module.named_parameters()]
    tied = model.config.decoder.tie_word_embeddings and part == "llm.lm_head"
    prefix = "llm.model.embed_tokens" if tied else part
    state = {
        name: torch.from_numpy(source.read(f"{prefix}.{name}").astype(np.float32)) for name in names
    }
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False)


def drop_part(model: MiniCPMV, part: str) -> None:
    """Free the weights of a submodule."""
    model.get_submodule(part).to("meta")
