"""Contents of a saved package: its size, its lookup tables, their error.

Read with the project's own reader of Core ML packages, whoever wrote them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.palettize import squared_error
from export.checkpoint.checkpoint import Checkpoint
from mobile_runtime.mlprogram.packing import decode
from mobile_runtime.mlprogram.program import BlobTensor, Operation, load_program

_PREFIX = "llm.model."


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_tables(package: Path, function: str) -> dict[str, tuple[Any, Any]]:
    """Operation -> indices (rows, columns) and tables (groups, 16) of each palettized matrix."""
    operations = load_program(package).functions[function].block.operations
    constants = {op.outputs[0].name: op for op in operations if op.type == "const"}
    tables = {}
    for op in operations:
        if op.type == "constexpr_lut_to_dense":
            indices, lut = (_values(op.inputs[name][0], constants) for name in ("indices", "lut"))
            tables[op.name] = (indices.reshape(indices.shape[:2]), lut.reshape(len(lut), -1))
    return tables


def _values(bound: Any, constants: dict[str, Operation]) -> Any:
    """The array that an input is bound to, by name or in place."""
    constant = constants[bound].attributes["val"] if isinstance(bound, str) else bound
    if isinstance(constant, BlobTensor):
        return decode(constant.packed, constant.element, constant.shape)
    return constant


def package_error(package: Path, folder: Path) -> float:
    """Summed squared error over the matrices; both functions must hold the same tables."""
    checkpoint = Checkpoint(folder)
    prefill, other = (read_tables(package, name) for name in ("prefill", "decode"))
    total = 0.0
    for name, info in checkpoint.tensors.items():
        if len(info.shape) < 2:
            continue
        label = name.removeprefix(_PREFIX).removesuffix(".weight").replace(".", "_")
        (operation,) = (op for op in prefill if label in op)
        pairs = zip(prefill[operation], other[operation], strict=True)
        if not all(np.array_equal(*pair) for pair in pairs):
            raise SystemExit(f"the functions of {package} hold different tables for {name}.")
        total += squared_error(checkpoint.read(name), *prefill[operation])
    return total
