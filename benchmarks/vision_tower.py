"""Vision towers to measure, in checkpoints whose other parts are as small as they may be, and the
two ways to run one: PyTorch in float32, and the bundle of one storage form in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from safetensors.numpy import save_file

from benchmarks.decode_model import published_config
from benchmarks.export_command import export_quietly
from benchmarks.llama_cpp import read_tensors
from benchmarks.published import CONFIG
from benchmarks.synthesize import write_checkpoint

Array = np.ndarray
Tower = Callable[[Array, Array], Array]  # pixel_values, position_ids -> image_features
FORMS = ("none", "fp16", "int8")
# The published widths; one layer is like the other.
VISION: Mapping[str, Any] = {**CONFIG["vision_config"], "num_hidden_layers": 2}
_DECODER: Mapping[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "max_window_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 512,
}


def write_tower(
    folder: Path, vision: Mapping[str, Any] = VISION, tensors: Mapping[str, Array] | None = None
) -> Path:
    """Write a checkpoint with random weights, `tensors` in place of those of their names, to the
    new `folder`; return the folder."""
    values = {**published_config(_DECODER), "vision_config": dict(vision)}
    write_checkpoint(values, folder, Console(quiet=True), threads=1)
    if tensors:
        (shard,) = folder.glob("*.safetensors")
        held = dict(read_tensors(shard))
        assert tensors.keys() <= held.keys()
        save_file({**held, **tensors}, shard)
    return folder


def export_form(checkpoint: Path, folder: Path, form: str) -> Path:
    """The bundle, in the new `folder`, whose tower is stored in `form`."""
    flags = ["--quant", "none", "--override", f"vision_encoder={form}"]
    return export_quietly("onnx", checkpoint, folder, *flags)


def open_bundle(bundle: Path, threads: int) -> Tower:
    """The tower of a bundle, in the session that the runtime opens for it."""
    from mobile_runtime.bundle import read_manifest
    from mobile_runtime.engines import EngineOptions
    from mobile_runtime.model.onnx import OnnxGraphs

    graphs = OnnxGraphs(bundle, read_manifest(bundle), EngineOptions(threads=threads))
    engine = graphs["vision_encoder"]

    def run(pixel_values: Array, position_ids: Array) -> Array:
        inputs = {"pixel_values": pixel_values, "position_ids": position_ids}
        return engine.run(inputs)["image_features"]

    return run


def load_reference(checkpoint: Path) -> Any:
    """`validation.reference.siglip.VisionEncoder` of a checkpoint, float32."""
    from export.checkpoint.checkpoint import Checkpoint
    from export.releases import load_config
    from validation.reference.minicpmv import build_empty, load_part

    return load_part(build_empty(load_config(checkpoint)), "vpm", Checkpoint(checkpoint))


def open_reference(checkpoint: Path, threads: int) -> Tower:
    """The tower of a checkpoint in PyTorch."""
    import torch

    torch.set_num_threads(threads)
    module = load_reference(checkpoint)

    def run(pixel_values: Array, position_ids: Array) -> Array:
        ids = torch.from_numpy(position_ids)
        with torch.inference_mode():
            valid = torch.ones(ids.shape, dtype=torch.bool)
            features = module(torch.from_numpy(pixel_values), ids, valid)
        return np.asarray(features.numpy())

    return run


def outliers(checkpoint: Path, pixel_values: Array, position_ids: Array) -> list[float]:
    """The largest value over the root mean square of what each layer puts out."""
    import torch

    module = load_reference(checkpoint)
    found: list[float] = []

    def note(_: Any, __: Any, x: torch.Tensor) -> None:
        found.append(float(x.abs().max() / x.square().mean().sqrt()))

    for layer in module.encoder.layers:
        layer.register_forward_hook(note)
    ids = torch.from_numpy(position_ids)
    with torch.inference_mode():
        module(torch.from_numpy(pixel_values), ids, torch.ones(ids.shape, dtype=torch.bool))
    return found
