"""`python -m tests.export.checkpoint.write_quantized`: matrices of the random checkpoint as the
tools themselves quantize them, and the digests of what the same tools dequantize, for the tests.

    pip install --no-deps bitsandbytes==0.50.2 compressed-tensors==0.20.1 transformers==5.24.0
    pip install --no-deps gptqmodel==7.7.0 autoawq==0.2.9    # sources: they build nothing
    pip install --no-deps accelerate loguru regex tqdm requests psutil
    pip install --no-deps pypcre logbar threadpoolctl device-smi tokenicer defuser
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import tempfile
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.random_checkpoint import write_random_checkpoint

FOLDER = Path(__file__).parent / "quantized"
NAME = "llm.model.layers.1.self_attn.k_proj"  # (128, 256)
Tensors = dict[str, torch.Tensor]
Made = tuple[Tensors, torch.Tensor, dict[str, Any]]  # parts, dequantized, quantization_config


def _without_its_init(package: str) -> None:
    """Let modules of a package be imported whose own __init__ wants an old transformers."""
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    module = types.ModuleType(package)
    module.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = module


def _grid(weight: torch.Tensor, groups: torch.Tensor, bits: int, sym: bool) -> tuple[Any, Any]:
    """Scales and zero points (rows, groups) of the least and largest values of each group."""
    top = 2**bits - 1
    scales, zeros = [], []
    for n in range(int(groups.max()) + 1):
        part = weight[:, groups == n].float()
        low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if sym:
            high = torch.maximum(high, -low)
            low = -high
        scale = (high - low) / top
        zeros.append(torch.full_like(scale, (top + 1) / 2) if sym else torch.round(-low / scale))
        scales.append(scale)
    return torch.stack(scales, 1).half(), torch.stack(zeros, 1)


def gptq(weight: torch.Tensor, bits: int, group_size: int, sym: bool, desc_act: bool) -> Made:
    """By gptqmodel, in the first format; desc_act takes the inputs in a random order."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.config import FORMAT, QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias=False)
    linear.weight.data = weight.float()
    size = columns if group_size == -1 else group_size
    groups = torch.arange(columns) // size
    if desc_act:
        groups = groups[torch.randperm(columns, generator=torch.Generator().manual_seed(1))]
    scales, zeros = _grid(weight, groups, bits, sym)
    packed = TorchLinear(
        bits=bits,
        group_size=group_size,
        sym=sym,
        desc_act=desc_act,
        in_features=columns,
        out_features=rows,
        bias=False,
        pack_dtype=torch.int32,
        format=FORMAT.GPTQ,
    )
    packed.pack_original(linear, scales, zeros, groups.int())
    packed.eval()
    dequantized = packed.dequantize_weight().T
    config = {"bits": bits, "group_size": group_size, "sym": sym, "desc_act": desc_act}
    first = not desc_act
    if first:
        quantize_config = QuantizeConfig(bits=bits, group_size=group_size)
        convert_gptq_v2_to_v1_format_module(packed, quantize_config)
    parts = {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales", "g_idx")}
    config |= {"quant_method": "gptq", "checkpoint_format": "gptq" if first else "gptq_v2"}
    return parts, dequantized, config


def awq(weight: torch.Tensor, group_size: int) -> Made:
    """By autoawq, in its layout GEMM."""
    for package in ("awq", "awq.modules", "awq.modules.linear"):
        _without_its_init(package)
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias=False)
    linear.weight.data = weight.half()
    scales, zeros = _grid(weight, torch.arange(columns) // group_size, 4, sym=False)
    made = WQLinear_GEMM.from_linear(
        linear, 4, group_size, scales=scales.T.contiguous(), zeros=zeros.T.contiguous()
    )
    parts = {name: getattr(made, name) for name in ("qweight", "qzeros", "scales")}
    dequantized = dequantize_gemm(made.qweight, made.qzeros, made.scales, 4, group_size).T
    config = {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True}
    return parts, dequantized, config | {"version": "gemm"}


def compressed(weight: torch.Tensor, format: str, scale_dtype: torch.dtype, **weights: Any) -> Made:
    """By compressed-tensors."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    arguments = QuantizationArgs(**weights)
    values, (rows, columns) = weight.float(), weight.shape
    if weights["strategy"] == "block":
        tall, wide = weights["block_structure"]
        cut = values.reshape(rows // tall, tall, columns // wide, wide)
        low, high = cut.amin((1, 3)), cut.amax((1, 3))
    elif weights["strategy"] == "tensor":
        low, high = values.amin().reshape(1), values.amax().reshape(1)
    else:
        cut = values.reshape(rows, -1, weights.get("group_size") or columns)
        low, high = cut.amin(2), cut.amax(2)
    scale, zero = calculate_qparams(low, high, arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    compressor = BaseCompressor.get_value_from_registry(format)
    state = {"weight": weight, "weight_scale": scale.to(scale_dtype), "weight_zero_point": zero}
    parts = compressor.compress(state, scheme)
    dequantized = compressor.decompress(parts, scheme)["weight"]
    config = {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }
    return parts, dequantized, config


def fp8(weight: torch.Tensor, block: tuple[int, int]) -> Made:
    """In the blocks of DeepSeek, dequantized by transformers."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    rows, columns = weight.shape
    cut = weight.float().reshape(rows // block[0], block[0], columns // block[1], block[1])
    scale = cut.abs().amax((1, 3)) / 448
    q = (cut / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
    dequantized = Fp8Dequantize(None)._dequantize_one(q, scale)
    config = {"quant_method": "fp8", "weight_block_size": list(block), "fmt": "e4m3"}
    return {"weight": q, "weight_scale_inv": scale}, dequantized, config


def four_bits(weight: torch.Tensor, kind: str, nested: bool, block_size: int) -> Made:
    """nf4 or fp4 by bitsandbytes."""
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(
        weight, quant_type=kind, compress_statistics=nested, blocksize=block_size
    )
    # Of the tool's two implementations for a processor, one gives some zeros of fp4 a sign.
    dequantized = functional.dequantize_4bit(packed, state) + 0.0
    parts = {"weight": packed} | {
        f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()
    }
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return parts, dequantized, config | {"llm_int8_skip_modules": ["lm_head"]}


def eight_bits(weight: torch.Tensor) -> Made:
    """LLM.int8() by bitsandbytes."""
    from bitsandbytes import functional

    q, largest, _ = functional.int8_vectorwise_quant(weight.half())
    dequantized = functional.int8_vectorwise_dequant(q, largest)
    parts = {"weight": q, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, dequantized, {"quant_method": "bitsandbytes", "load_in_8bit": True}


def made(weight: torch.Tensor) -> dict[str, Made]:
    """Each kind of matrix, by the name of its file."""
    int4, brain = {"num_bits": 4, "type": "int"}, torch.bfloat16
    float8 = {"num_bits": 8, "type": "float", "symmetric": True}
    return {
        "gptq-sym": gptq(weight, 4, 128, sym=True, desc_act=False),
        "gptq-asym": gptq(weight, 4, 32, sym=False, desc_act=False),
        "gptq-v2-order": gptq(weight, 4, 64, sym=False, desc_act=True),
        "gptq-row": gptq(weight, 4, -1, sym=True, desc_act=False),
        "gptq-8bit": gptq(weight, 8, 64, sym=False, desc_act=False),
        "awq": awq(weight, 128),
        "awq-32": awq(weight, 32),
        "packed-sym": compressed(
            weight, "pack-quantized", brain, **int4, strategy="group", group_size=128
        ),
        "packed-asym": compressed(
            *(weight, "pack-quantized", torch.float16),
            **int4,
            strategy="group",
            group_size=32,
            symmetric=False,
        ),
        "packed-row": compressed(
            weight, "pack-quantized", torch.float32, **int4, strategy="channel"
        ),
        "float8-row": compressed(weight, "float-quantized", brain, **float8, strategy="channel"),
        "float8-tensor": compressed(
            weight, "float-quantized", torch.float32, **float8, strategy="tensor"
        ),
        "float8-block": compressed(
            *(weight, "float-quantized", brain),
            **float8,
            strategy="block",
            block_structure=[64, 128],
        ),
        "int8-row": compressed(
            weight, "int-quantized", brain, num_bits=8, type="int", strategy="channel"
        ),
        "fp8": fp8(weight, (128, 128)),
        "nf4": four_bits(weight, "nf4", nested=True, block_size=64),
        "fp4": four_bits(weight.float(), "fp4", nested=False, block_size=128),
        "nf4-half": four_bits(weight.half(), "nf4", nested=False, block_size=64),
        "int8": eight_bits(weight),
    }


def main() -> None:
    """Write a file per kind, and a record of their configurations and digests."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        write_random_checkpoint(Path(work))
        weight = load_file(Path(work) / "model.safetensors")[f"{NAME}.weight"]
    record: dict[str, Any] = {
        "tools": {
            name: version(name)
            for name in (
                "gptqmodel",
                "autoawq",
                "compressed-tensors",
                "transformers",
                "bitsandbytes",
            )
        },
        "kinds": {},
    }
    for kind, (parts, dequantized, config) in made(weight).items():
        tensors = {f"{NAME}.{part}": tensor.contiguous() for part, tensor in parts.items()}
        save_file(tensors, FOLDER / f"{kind}.safetensors")
        content = dequantized.contiguous().view(torch.uint8).numpy().tobytes()
        record["kinds"][kind] = {
            "config": config,
            "dtype": str(dequantized.dtype).removeprefix("torch."),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    (FOLDER / "quantized.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
