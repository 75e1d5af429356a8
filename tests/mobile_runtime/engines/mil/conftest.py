"""Builds tiny ML Programs with coremltools' builder, saves them, and runs them with our engine."""

from __future__ import annotations

import gc
import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.engines.mil.registry import OPERATIONS

logging.getLogger("coremltools").setLevel(logging.ERROR)
ct = pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function, Program, types  # noqa: E402

pytest.importorskip("torch")
from mobile_runtime.engines.torch import TorchEngine  # noqa: E402

# coremltools collects garbage at every conversion; what is loaded so far need not be searched.
gc.freeze()

Build = Callable[..., Any]


@pytest.fixture(autouse=True)
def numbers_of_its_own(request):
    """A test draws the same numbers whichever tests ran before it in the same process."""
    generator = getattr(request.module, "RNG", None)
    if generator is not None:
        fresh = np.random.default_rng(zlib.crc32(request.node.name.encode()))
        generator.bit_generator.state = fresh.bit_generator.state


_TYPES = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}


def save_program(program: Any, path: Path) -> Path:
    """Save without any pass, so that the operations are those that the test wrote."""
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def make_function(
    build: Build, inputs: dict[str, np.ndarray], states: dict[str, Any], opset: Any
) -> Any:
    placeholders = {
        name: mb.placeholder(shape=value.shape, dtype=_TYPES[value.dtype.name])
        for name, value in inputs.items()
    }
    placeholders |= {
        name: mb.state_tensor_placeholder(shape=shape, dtype=_TYPES[dtype])
        for name, (shape, dtype) in states.items()
    }
    with Function(placeholders, opset_version=opset) as function:
        results = build(**function.inputs)
        results = results if isinstance(results, list | tuple) else [results]
        names = [f"result_{n}" for n in range(len(results))]
        outputs = [_exposed(v, n) for v, n in zip(results, names, strict=True)]
        function.set_outputs(outputs)
    return function


def _exposed(value: Any, name: str) -> Any:
    """A function's outputs must be float or int32 and have names of their own."""
    if value.dtype in (types.fp16, types.fp32):
        return mb.identity(x=value, name=name)
    return mb.cast(x=value, dtype="int32", name=name)


@pytest.fixture
def save(tmp_path: Path) -> Iterator[Build]:
    """save(build, inputs, states) -> path of a package whose function `main` is `build`."""

    def run(build: Build, inputs: dict[str, np.ndarray], states: Any = None, opset: Any = None):
        program = Program()
        function = make_function(build, inputs, states or {}, opset or ct.target.iOS18)
        program.add_function("main", function)
        return save_program(program, tmp_path / "test.mlpackage")

    yield run


@pytest.fixture
def save_functions(tmp_path: Path) -> Build:
    """save_functions({name: (build, inputs)}, states, default) -> a multifunction package."""

    def run(builds: dict[str, Any], states: dict[str, Any], default: str) -> Path:
        program = Program()
        for name, (build, inputs) in builds.items():
            program.add_function(name, make_function(build, inputs, states, ct.target.iOS18))
        program.default_function_name = default
        program.export_as_multifunction = True
        return save_program(program, tmp_path / "functions.mlpackage")

    return run


@pytest.fixture
def execute(save: Build) -> Build:
    """execute(op type, build, inputs) -> the results of the saved program, in order. The same
    program on PyTorch's tensors gives the same."""

    def run(op: str, build: Build, inputs: dict[str, np.ndarray], precision: str = "fp32"):
        package = save(build, inputs)
        engine = MilEngine(package, precision=precision)
        types_saved = [o.type for o in engine.functions["main"].block.operations]
        assert op in types_saved, f"{op} is not in the saved program: {types_saved}"
        results = engine.run(inputs)
        tensors = TorchEngine(package, precision=precision)
        watch_memory(tensors)
        assert_same_on_tensors(results, tensors.run(inputs))
        return [results[spec.name] for spec in engine.functions["main"].outputs]

    return run


def watch_memory(engine: TorchEngine) -> None:
    """Fail when a form gives memory of an argument as if it were new: a later write would change
    both."""
    arithmetic = engine._torch
    bind = arithmetic.bind

    def watched(step: Any, arguments: Any, expand: Any) -> Any:
        call, bound = bind(step, arguments, expand)
        if OPERATIONS[step.operation.type].result in ("viewed", "object"):  # lists never change
            return call, bound

        def checked(**given: Any) -> Any:
            results = call(**given)
            taken = {key for value in flat(given.values()) for key, _ in memory_of(value)}
            made = {key for value in flat([results]) for key, _ in memory_of(value)}
            assert not taken & made, f"{step.operation.type} gives the memory of an argument"
            return results

        return checked, bound

    memory_of = arithmetic.memory_of
    arithmetic.bind = watched


def flat(values: Any) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, tuple) else (value,)


def assert_same_on_tensors(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Outputs of the interpreter with numpy and with PyTorch: the same types, shapes, integers and
    non-finite numbers; floats to a hundred-thousandth of the largest, which is 100 dB."""
    assert found.keys() == expected.keys()
    for name, ours in expected.items():
        other = found[name]
        if not isinstance(ours, np.ndarray) or ours.dtype.kind != "f":
            np.testing.assert_equal(other, ours)
            continue
        assert (other.shape, other.dtype) == (ours.shape, ours.dtype)
        largest = np.abs(ours[np.isfinite(ours)]).max(initial=0)
        np.testing.assert_allclose(other, ours, rtol=1e-5, atol=1e-5 * largest)


def value_inference(build: Build, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What coremltools' own numpy evaluation of constant operations gives."""
    with Function({}, opset_version=ct.target.iOS18):
        results = build(**{name: mb.const(val=value) for name, value in inputs.items()})
    results = results if isinstance(results, list | tuple) else [results]
    assert all(value.val is not None for value in results), "coremltools does not evaluate this"
    return [np.asarray(value.val) for value in results]


@pytest.fixture
def inferred() -> Build:
    """inferred(build, inputs) -> results by coremltools' value inference."""
    return value_inference
