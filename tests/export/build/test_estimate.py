"""What --plan says an export will take: each specification at its own method's rate."""

import pytest

from export.backends import BACKENDS
from export.build.estimate import estimate
from export.build.job import open_job
from export.config import ExportConfig
from export.quant.methods import METHODS, Method


@pytest.fixture
def timed(monkeypatch):
    """Names of the methods that were timed."""
    found = set()
    for name, method in list(METHODS.items()):

        def choose(values, spec, statistics, name=name, method=method):
            found.add(name)
            return method.choose(values, spec, statistics)

        monkeypatch.setitem(METHODS, name, Method(method.forms, choose))
    return found


@pytest.mark.parametrize(
    ("backend", "quant", "methods"),
    [
        ("coreml", "none", {"round"}),
        ("coreml", "int4-fast", {"round", "kmeans", "minmax"}),
        ("onnx", "none", {"round"}),
        ("coreml", "int4", {"round", "minmax", "error_feedback"}),
        ("onnx", "int4-fast", {"round", "least_squares", "minmax"}),
        ("onnx", "int4", {"round", "minmax", "error_feedback"}),
    ],
)
def test_only_what_is_searched_is_timed_and_by_its_own_method(
    random_checkpoint, timed, backend, quant, methods
):
    job = open_job(random_checkpoint, ExportConfig(quant=quant), BACKENDS[backend])
    found = estimate(job, jobs=1)
    assert timed == methods
    assert (found.calibration_seconds or 0) >= 0
    assert (found.calibration_seconds is not None) == ("error_feedback" in methods)
    assert 0 < found.written_bytes < 2 * found.read_bytes and found.seconds > 0
