"""A pytest plugin that lets coremltools' own tests judge the interpreter, on any system.

The tests are inside coremltools' wheel. They convert a small program, ask `MLModel.predict` for its
results, which needs a Mac, and compare them with expected numbers. Here the interpreter answers.
Models of single precision, which are compared within 1e-4, run in "fp32"; those of half precision
in "fp16". Every case draws its random numbers from a seed of its own.

`--apple-sample` keeps one case of each test function, chosen by a fixed hash, `--apple-report` is
the file that gets the outcome of each case as JSON.
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


def pytest_addoption(parser):
    parser.addoption("--apple-sample", action="store_true")
    parser.addoption("--apple-report", type=Path)


def pytest_configure(config):
    """Before any test module is imported: they read the system's name and version on the way."""
    import coremltools.models.utils as model_utils
    from coremltools.converters.mil import testing_utils
    from coremltools.models.model import MLModel

    logging.disable(logging.CRITICAL)
    testing_utils._IS_MACOS = True
    model_utils._macos_version = lambda: MACOS
    platform.machine = lambda: "arm64"
    MLModel.predict = predict
    MLModel.make_state = lambda model: engine_of(model).new_state()
    config.pluginmanager.register(Outcomes(config), "apple-outcomes")


def engine_of(model):
    """The interpreter of an `MLModel`, opened once; skips what is no ML Program."""
    if getattr(model, "_interpreter", None) is None:
        spec = model.get_spec()
        if spec.WhichOneof("Type") != "mlProgram":
            pytest.skip("no ML Program")
        operations = spec.mlProgram.functions["main"].block_specializations.values()
        halves = any(
            output.type.tensorType.dataType == 10  # float16
            for block in operations
            for operation in block.operations
            for output in operation.outputs
        )
        model._interpreter = MilEngine(
            Path(model.package_path), precision="fp16" if halves else "fp32"
        )
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
    results = engine.run(feed, state=state)
    return {
        name: value.reshape(1) if isinstance(value, np.ndarray) and not value.ndim else value
        for name, value in results.items()
    }


def chosen(values, name):
    """Of one test's parameters, those of ML Programs; of these one, by a hash of the name."""
    kept = [value for value in values if not any(t in str(value) for t in OTHER_TARGETS)]
    exact = [value for value in kept if "fp32" in str(value)] or kept
    return [exact[zlib.crc32(name.encode()) % len(exact)]] if exact else []


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    """Choose before the cases are made: some tests have many thousands."""
    if not metafunc.config.getoption("--apple-sample"):
        return
    markers = metafunc.definition.own_markers
    for n, marker in enumerate(markers):
        if marker.name == "parametrize":
            names, values = marker.args or (marker.kwargs["argnames"], marker.kwargs["argvalues"])
            few = chosen(list(values), f"{metafunc.definition.nodeid} {n}")
            markers[n] = pytest.mark.parametrize(names, few).mark


def pytest_collection_modifyitems(config, items):
    """Leave out what is not converted to an ML Program."""
    kept = [item for item in items if not any(t in item.nodeid for t in OTHER_TARGETS)]
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
                kind = "refused" if call.excinfo.errisinstance(InputError) else "wrong"
                reason = str(call.excinfo.value)
            self.cases[short(item.nodeid)] = (kind, reason.strip()[:600])
        return report

    def pytest_collectreport(self, report):
        if report.failed:
            reason = str(report.longrepr).strip().splitlines()[-1]
            kind = "skipped" if "No module named" in reason else "wrong"
            self.cases[short(report.nodeid)] = (kind, reason[:600])

    def pytest_terminal_summary(self, terminalreporter):
        counts = Counter(kind for kind, _ in self.cases.values())
        listed = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
        terminalreporter.write_line(f"coremltools' own tests: {listed}")

    def pytest_sessionfinish(self):
        if self.path is not None:
            self.path.write_text(json.dumps(self.cases, indent=1), encoding="utf-8")


KINDS = ("passed", "refused", "wrong", "skipped")
