"""Matrices as a bundle stores them, read back from its packages.

A calibration chooses integers that the checkpoint alone does not determine. So PyTorch with "the
same weights" takes them from the bundle's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export.backends.coreml.names import const_name
from export.quant.recipe import QuantSpec
from export.quant.weights import LutWeight, Weight
from mobile_runtime.bundle import Manifest
from mobile_runtime.errors import InputError
from mobile_runtime.mlprogram.program import BlobTensor, load_program

Specs = Mapping[str, QuantSpec]
Shapes = Mapping[str, tuple[int, int]]
Loaders = dict[str, Callable[[], Weight]]
_ROLES = ("decoder", "lm_head")  # of the packages that hold what a calibration finishes


def read_stored(bundle: Path, manifest: Manifest, specs: Specs, shapes: Shapes) -> Loaders:
    """What reads each of the matrices in `specs`, by name. Raises `InputError` if one is not in the
    bundle."""
    read = _read_tables if manifest.format == "coreml" else _read_blocks
    found: Loaders = {}
    for graph in manifest.graphs:
        if graph.role in _ROLES:
            found |= read(bundle / graph.path, specs, shapes)
    if missing := sorted(specs.keys() - found.keys()):
        raise InputError(
            f"{bundle} lacks {missing[0]} in the form of its manifest; copy or export it again."
        )
    return found


def _read_blocks(path: Path, specs: Specs, shapes: Shapes) -> Loaders:
    from export.backends.onnx.read import read_blocks

    return dict(read_blocks(path, specs, shapes))


def _read_tables(package: Path, specs: Specs, shapes: Shapes) -> Loaders:
    name_of = {const_name(name): name for name in specs}
    function = next(iter(load_program(package).functions.values()))
    found: Loaders = {}
    for op in function.block.operations:
        name = name_of.get(op.name)
        if name is not None and op.type == "constexpr_lut_to_dense":
            indices, lut = op.inputs["indices"][0], op.inputs["lut"][0]
            found[name] = partial(_lut_weight, indices, lut, specs[name], shapes[name])
    return found


def _lut_weight(indices: Any, lut: Any, spec: QuantSpec, shape: tuple[int, int]) -> LutWeight:
    assert isinstance(indices, BlobTensor) and isinstance(lut, BlobTensor)
    tables = lut.packed.view(np.float16).reshape(-1, 1 << spec.bits)
    return LutWeight(indices.packed, tables, spec.bits, spec.group_size, shape)
