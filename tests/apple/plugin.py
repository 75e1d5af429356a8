"""A pytest plugin that lets coremltools' own tests judge the interpreter, on any system.

The tests are inside coremltools' wheel. They convert a small program, ask `MLModel.predict` for its
results, which needs a Mac, and compare them with expected numbers. Here the interpreter answers.
Models of single precision, which are compared within 1e-4, run in "fp32"; those of half precision
in "fp16". Every case draws its random numbers from a seed of its own.

`--apple-sample N` keeps one case of every Nth test function, all of it chosen by a fixed hash;
`--apple-report` is the file that gets the outcome of each case as JSON.
"""

from __future__ import annotations

import json
import logging
import platform
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mobile_runtime.engines.mil import MilEngine
from mobile_runtime.errors import InputError

MACOS = (26, 0)  # the system that the tests are told to run on
OTHER_TARGETS = ("neuralnetwork",)  # of the converter, which are no ML Programs
FLOAT16 = 10  # of MIL.proto
TIMED = ("test_efficient_type_inference",)  # measures the converter's time


class Refused(RuntimeError):
    """A sentence of the interpreter's, as Core ML's own predict would raise it."""


def pytest_addoption(parser):
    parser.addoption("--apple-sample", type=int, default=0)
    parser.addoption("--apple-report", type=Path)


def pytest_configure(config):
    """Before any test module is imported: they read the system's name and version on the way."""
    import coremltools.models.utils as model_utils
    from coremltools.converters.mil import testing_utils
    from coremltools.models.model import MLModel

    logging.disable(logging.CRITICAL)
    testing_utils._IS_MACOS = True
    testing_utils.compare_backend = within_half_precision(testing_utils.compare_backend)
    model_utils._macos_version = lambda: MACOS
    platform.machine = lambda: "arm64"
    MLModel.predict = predict
    MLModel.make_state = lambda model: engine_of(model).new_state()
    config.pluginmanager.register(Outcomes(config), "apple-outcomes")


def within_half_precision(compare):
    """Apple's comparison; where values of a single precision model are half precision, within 1/256
    of the largest: eight of its last places."""

    def compare_backend(mlmodel, input_key_values, expected_outputs, dtype="fp32", **limits):
        engine_of(mlmodel)
        if dtype == "fp32" and mlmodel._halves:
            values = [np.asarray(v, np.float64) for v in expected_outputs.values()]
            least = max((np.abs(value).max(initial=0) for value in values), default=0) / 256
            limits["atol"] = max(limits.get("atol", 1e-4), least)
        return compare(mlmodel, input_key_values, expected_outputs, dtype, **limits)

    return compare_backend


def engine_of(model):
    """The interpreter of an `MLModel`, opened once; skips what is no ML Program."""
    if not hasattr(model, "_interpreter"):
        spec = model.get_spec()
        if spec.WhichOneof("Type") != "mlProgram":
            pytest.skip("no ML Program")
        function = spec.mlProgram.functions["main"]
        values = list(function.inputs)
        for block in function.block_specializations.values():
            values += [value for operation in block.operations for value in operation.outputs]
        halves = any(value.type.tensorType.dataType == FLOAT16 for value in values)
        model._interpreter = MilEngine(
            Path(model.package_path), precision="fp16" if halves else "fp32"
        )
        model._halves = halves
    return model._interpreter


def predict(model, data, state=None):
    """What `MLModel.predict` gives: the outputs by name, scalars with one axis."""
    if isinstance(data, list):
        return [predict(model, one) for one in data]
    engine = engine_of(model)
    feed = {}
    for spec in engine.functions["main"].inputs:
        if spec.name not in data:
            continue
        if hasattr(data[spec.name], "convert"):
            pytest.skip("the input is a picture")
        value = np.asarray(data[spec.name])
        feed[spec.name] = value.astype(np.int32 if "int" in spec.dtype else np.float32)
    try:
        results = engine.run(feed, state=state)
    except InputError as error:
        raise Refused(f"Unable to compute the prediction using ML Program: {error}") from error
    return {
        name: value.reshape(1) if isinstance(value, np.ndarray) and not value.ndim else value
        for name, value in results.items()
    }


def chosen(values, name):
    """One of a test's parameters, by a hash of the name: of an ML Program in single precision, or
    in the only precision that there is."""
    start = zlib.crc32(name.encode())
    turned = (values[(start + n) % len(values)] for n in range(len(values)))
    usable = (value for value in turned if not any(t in str(value) for t in OTHER_TARGETS))
    first = next(usable, None)
    if first is None or "fp16" not in str(first):
        return [first] * (first is not None)
    return [next((value for value in usable if "fp16" not in str(value)), first)]


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    """Choose before the cases are made: some tests have many thousands."""
    every, name = metafunc.config.getoption("--apple-sample"), short(metafunc.definition.nodeid)
    if not every:
        return
    markers, is_left_out = metafunc.definition.own_markers, zlib.crc32(name.encode()) % every
    if is_left_out and metafunc.fixturenames:
        markers[:] = [pytest.mark.parametrize(sorted(metafunc.fixturenames), []).mark]
        return
    for n, marker in enumerate(markers):
        if marker.name == "parametrize":
            names, values = marker.args or (marker.kwargs["argnames"], marker.kwargs["argvalues"])
            few = chosen(list(values), f"{name} {n}")
            markers[n] = pytest.mark.parametrize(names, few).mark


def pytest_collection_modifyitems(config, items):
    """Leave out what is not converted to an ML Program, and functions that the sample lacks."""
    every = config.getoption("--apple-sample") or 1
    kept = [
        item
        for item in items
        if not any(target in item.nodeid for target in (*OTHER_TARGETS, *TIMED))
        and zlib.crc32(short(item.nodeid).partition("[")[0].encode()) % every == 0
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def pytest_runtest_setup(item):
    """Numbers of its own for each case."""
    seed = zlib.crc32(short(item.nodeid).encode())
    np.random.seed(seed)
    import torch

    torch.manual_seed(seed)


def short(node):
    """The name of a case without the folders of the wheel."""
    return node.partition("ops/tests/")[2] or node


class Outcomes:
    """What became of each case: passed, skipped, refused (a sentence of the interpreter's) or
    wrong."""

    def __init__(self, config):
        self.path = config.getoption("--apple-report")
        self.cases = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.when == "call" or report.outcome != "passed":
            kind, reason = report.outcome, ""
            if report.skipped:
                reason = getattr(report, "wasxfail", "") or str(report.longrepr[-1])
            elif report.failed:
                kind = "wrong"
                if call.excinfo.errisinstance((InputError, Refused)):
                    kind = "refused"
                reason = str(call.excinfo.value)
            self.cases[short(item.nodeid)] = (kind, reason.strip()[:600])
        return report

    def pytest_collectreport(self, report):
        if report.failed:
            reason = str(report.longrepr).strip().splitlines()[-1]
            is_absent = "ModuleNotFoundError" in reason or "ImportError" in reason
            kind = "skipped" if is_absent else "wrong"
            self.cases[short(report.nodeid)] = (kind, reason[:600])

    def pytest_terminal_summary(self, terminalreporter):
        counts = Counter(kind for kind, _ in self.cases.values())
        listed = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
        terminalreporter.write_line(f"coremltools' own tests: {listed}")

    def pytest_sessionfinish(self):
        if self.path is not None:
            self.path.write_text(json.dumps(self.cases, indent=1), encoding="utf-8")


KINDS = ("passed", "refused", "wrong", "skipped")
