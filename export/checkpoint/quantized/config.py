"""What config.json says of a quantization, checked before anything is planned.

Which modules are quantized is not read from it: those that are not lie in the files as floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mobile_runtime.errors import InputError
from mobile_runtime.files import read_json

Quantization = Mapping[str, Any]
_KEY = "quantization_config"
_REMEDY = "give the checkpoint that it was made from, or one of these kinds"
# What the parts of a compressed-tensors checkpoint are, by the tool's name of the format.
_COMPRESSED = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
_PLAIN = (None, "dense", "mixed-precision")  # formats that say nothing of the matrices


def is_quantized(folder: Path) -> bool:
    """Whether the config.json in `folder` names a quantization."""
    with suppress(InputError):  # what is wrong with the file is said by those who need it
        return read_json(folder / "config.json", "").get(_KEY) is not None
    return False


def read_quantization(folder: Path) -> dict[str, Any]:
    """The quantization that the config.json in `folder` names. Raises `InputError` if it is of a
    kind that is not read."""
    given = read_json(folder / "config.json", "give the folder of a checkpoint").get(_KEY)
    if not isinstance(given, dict):
        raise InputError(f"{folder / 'config.json'} has a {_KEY} that is no object; {_REMEDY}.")
    method = str(given.get("quant_method"))
    if "quant_method" not in given and {"load_in_4bit", "load_in_8bit"} & given.keys():
        method = "bitsandbytes"  # its first versions left the name out
    if method not in _CHECKS:
        raise InputError(
            f"{folder / 'config.json'} says quant_method {method[:40]!r}, which is not read; "
            f"read are {', '.join(_CHECKS)}: {_REMEDY}."
        )
    for key, value, allowed in _CHECKS[method](given):
        if value not in allowed:
            raise InputError(
                f"{folder / 'config.json'} says {key} {str(value)[:40]!r} of quant_method "
                f"{method!r}; read are {', '.join(map(repr, allowed))}: {_REMEDY}."
            )
    return given | {"quant_method": method}


def read_dequantized_config(folder: Path) -> dict[str, Any]:
    """The config.json in `folder` without the quantization, which is checked."""
    read_quantization(folder)
    config = read_json(folder / "config.json", "give the folder of a checkpoint")
    del config[_KEY]
    return config


def gptq_format(config: Quantization) -> str:
    """How zero points are stored: those of `gptq`, the first format, are one too small."""
    return str(config.get("checkpoint_format") or config.get("format") or "gptq")


def block_sizes(config: Quantization) -> list[tuple[int, int]]:
    """(rows, columns) that share a scale, of all kinds of blocks that a configuration names."""
    groups = config.get("config_groups")
    weights = [_value(g, "weights") for g in (groups.values() if isinstance(groups, dict) else ())]
    given = [config.get("weight_block_size"), *(_value(w, "block_structure") for w in weights)]
    return [(block[0], block[1]) for block in given if _is_block(block)]


# A key, its value, and the values that it may have.
_Checks = Iterator[tuple[str, Any, tuple[Any, ...]]]


def _check_gptq(config: Quantization) -> _Checks:
    yield "bits", config.get("bits"), (4, 8)
    yield "checkpoint_format", gptq_format(config), ("gptq", "gptq_v2")


def _check_awq(config: Quantization) -> _Checks:
    yield "bits", config.get("bits", config.get("w_bit", 4)), (4,)
    version = config.get("version") or config.get("format") or "gemm"
    yield "version", str(version).lower(), ("gemm",)


def _check_bitsandbytes(config: Quantization) -> _Checks:
    if config.get("load_in_4bit", config.get("_load_in_4bit")):
        yield "bnb_4bit_quant_type", config.get("bnb_4bit_quant_type", "fp4"), ("nf4", "fp4")
    else:
        eight = config.get("load_in_8bit", config.get("_load_in_8bit"))
        yield "load_in_4bit or load_in_8bit", eight, (True,)


def _check_fp8(config: Quantization) -> _Checks:
    yield "scale_fmt", config.get("scale_fmt"), (None, "float")
    yield "fmt", config.get("fmt"), (None, "e4m3")
    block = config.get("weight_block_size")
    yield "weight_block_size", block, (block,) if _is_block(block) else (None, [128, 128])


def _check_compressed(config: Quantization) -> _Checks:
    yield "quantization_status", config.get("quantization_status", "compressed"), ("compressed",)
    yield "format", config.get("format"), (*_COMPRESSED, *_PLAIN)
    yield "sparsity_config", _value(config.get("sparsity_config"), "format"), (None, "dense")
    yield "transform_config", config.get("transform_config") or None, (None,)
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        yield "format", _value(group, "format"), (*_COMPRESSED, *_PLAIN)
        weights = _value(group, "weights")
        kind = f"{_value(weights, 'type') or 'int'}{_value(weights, 'num_bits')}"
        yield "weights", kind, ("int4", "int8", "float8")


def _value(given: Any, key: str) -> Any:
    return given.get(key) if isinstance(given, dict) else None


def _is_block(value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2
    return pair and all(isinstance(size, int) and size > 0 for size in value)


_CHECKS: Mapping[str, Callable[[Quantization], _Checks]] = {
    "gptq": _check_gptq,
    "awq": _check_awq,
    "bitsandbytes": _check_bitsandbytes,
    "compressed-tensors": _check_compressed,
    "fp8": _check_fp8,
}
