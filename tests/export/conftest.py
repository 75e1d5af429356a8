"""What the exporter's tests share: the published configuration, plans, tiny packages."""

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.published import CONFIG
from export.backends import BACKENDS
from export.backends.coreml.package import write_package
from export.checkpoint.checkpoint import Checkpoint
from export.config import ExportConfig
from export.graphs.graph import Function, Graph, Parameter
from export.graphs.weights import load_weight
from export.models.preprocessor import load_preprocessing
from export.plan import build_plan
from export.quant.recipe import FLOAT16
from export.releases import (
    DEFAULT_RELEASE,
    ModelDescription,
    describe_model,
    parse_config,
)
from mobile_runtime.bundle import TensorSpec
from mobile_runtime.engines.mil import MilEngine
from tests.processes import run_python


@pytest.fixture
def published_values():
    """The published config.json, to be changed."""
    return copy.deepcopy(dict(CONFIG))


@pytest.fixture(scope="session")
def published_model():
    return parse_config(CONFIG)


@pytest.fixture(scope="session")
def published_preprocessing(published_model, tmp_path_factory):
    return load_preprocessing(tmp_path_factory.mktemp("no-file"), published_model)


@pytest.fixture(scope="session")
def published_plan(published_model, published_preprocessing):
    """published_plan(**flags) -> the plan for the published model; reads no weights."""

    def make(backend=BACKENDS["coreml"], recipe=None, **flags):
        config = ExportConfig(**{"quant": "int4-fast", **flags})
        described = ModelDescription(DEFAULT_RELEASE, published_model, published_preprocessing)
        return build_plan(config, described, backend, recipe=recipe)

    return make


@dataclass(frozen=True)
class Tiny:
    """The random checkpoint, open, with a plan for it."""

    checkpoint: Checkpoint
    model: object
    plan: object


@pytest.fixture(scope="session")
def tiny(random_checkpoint):
    """tiny(**flags) -> the random checkpoint and its plan."""
    described = describe_model(random_checkpoint)
    checkpoint = Checkpoint(random_checkpoint)

    def make(**flags):
        config = ExportConfig(**{"quant": "int4-fast", **flags})
        plan = build_plan(config, described, BACKENDS["coreml"])
        return Tiny(checkpoint, described.config, plan)

    return make


@pytest.fixture(scope="session")
def write_graph():
    """write_graph(graph, specs, source, path) -> path of the package, weights quantized."""

    def write(graph, specs, source, path):
        stream = ((p, load_weight(p, source, specs.get(p.name, FLOAT16))) for p in graph.parameters)
        write_package(graph, specs, stream, path)
        return path

    return write


class Arrays(dict):
    """A tensor source over a dict of arrays."""

    def read(self, name):
        return self[name]

    def read_rows(self, name, begin, end):
        return self[name][begin:end]


@pytest.fixture
def arrays():
    return Arrays


def parameter(name, values):
    """A graph's parameter with the shape of an array."""
    return Parameter(name, values.shape, lambda source: source.read(name))


@pytest.fixture
def make_parameter():
    return parameter


@pytest.fixture
def build_body(tmp_path):
    """build_body(body, inputs, shapes, …) -> an open one-function package.

    `body(ops, inputs, parameters)` returns the values of the given `shapes`. Options: `specs`
    quantize weights, a `state` shape adds the input "cache", `precision` is the interpreter's.
    """

    def build(body, inputs, shapes, weights=(), **options):
        state, specs = options.pop("state", None), options.pop("specs", {})
        source = Arrays(weights)
        parameters = {name: parameter(name, values) for name, values in source.items()}

        def named(ops, values):
            return dict(zip(names, body(ops, values, parameters), strict=True))

        names = [f"out_{n}" for n in range(len(shapes))]
        function = Function("main", _specs(inputs), _outputs(names, shapes), named)
        states = () if state is None else (TensorSpec("cache", state, "float16"),)
        graph = Graph("one", "decoder", (function,), states, range(1))
        chosen = dict.fromkeys(source, FLOAT16) | specs
        stream = ((p, load_weight(p, source, chosen[p.name])) for p in graph.parameters)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.mlpackage"
        write_package(graph, chosen, stream, path)
        return MilEngine(path, **{"precision": "fp32"} | options)

    return build


def _specs(inputs):
    return tuple(
        TensorSpec(name, array.shape, "int32" if array.dtype.kind == "i" else "float16")
        for name, array in inputs.items()
    )


def _outputs(names, shapes):
    pairs = zip(names, shapes, strict=True)
    return tuple(TensorSpec(name, shape, "float16") for name, shape in pairs)


@pytest.fixture
def run_body(build_body):
    """run_body(body, inputs, shape, …) -> the one output of such a package."""

    def run(body, inputs, shape, weights=(), **options):
        def single(ops, values, parameters):
            return [body(ops, values, parameters)]

        return build_body(single, inputs, [shape], weights, **options).run(inputs)["out_0"]

    return run


@dataclass(frozen=True)
class CommandRun:
    """One `python -m export` of the random model in a process of its own."""

    stdout: str
    stderr: str
    output: Path


@pytest.fixture(scope="session")
def command_runs(tmp_path_factory):
    """The same export from two processes that order their sets and dicts' hashes differently."""
    return [_run_command(tmp_path_factory.mktemp("command"), seed) for seed in ("1", "2")]


def _run_command(output, seed):
    arguments = ["coreml", "--quant", "int4-fast", "--no-cache", "--output", str(output)]
    arguments += ["--context-length", "64"]
    done = run_python("-m", "export", *arguments, timeout=120, PYTHONHASHSEED=seed)
    assert done.returncode == 0, done.stderr
    return CommandRun(done.stdout, done.stderr, output)


@pytest.fixture
def save_checkpoint(random_checkpoint, tmp_path):
    """save_checkpoint(change) -> copy of the random checkpoint, its tensors changed by `change`."""

    def save(change):
        folder = tmp_path / "changed"
        shutil.copytree(random_checkpoint, folder)
        checkpoint = Checkpoint(random_checkpoint)
        tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.tensors}
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return save
