"""MiniCPM-V 4.5 as one PyTorch module whose parameter names are the checkpoint's.

Parts are loaded apart from the whole, so that a model larger than memory can be run part by part.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from torch import nn

from export.checkpoint.source import TensorReader
from export.models.config import ModelConfig
from validation.reference.qwen import Qwen
from validation.reference.resampler import Resampler
from validation.reference.siglip import VisionEncoder


class MiniCPMV(nn.Module):
    """`vpm` (vision tower), `resampler`, `llm` (decoder), named as published."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vpm = VisionEncoder(config.vision)
        self.resampler = Resampler(config)
        self.llm = Qwen(config.decoder)


def build_empty(config: ModelConfig) -> MiniCPMV:
    """The module without weights: every parameter is on the device `meta`."""
    with torch.device("meta"):
        return MiniCPMV(config).eval().requires_grad_(False)


def load_part(empty: MiniCPMV, part: str, source: TensorReader) -> nn.Module:
    """The submodule called `part` ("llm.model.layers.3") with the float32 weights of `source`, a
    copy: `empty` stays as it is."""
    module = deepcopy(empty.get_submodule(part))
    state = {
        name: torch.from_numpy(source.read(f"{part}.{name}").astype(np.float32))
        for name, _ in module.named_parameters()
    }
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(False)
