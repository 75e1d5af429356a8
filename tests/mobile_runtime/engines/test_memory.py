"""How much memory graphs may take on a machine, in a container, under a limit."""

import os
import resource

import numpy as np
import pytest

from mobile_runtime.engines import memory
from mobile_runtime.engines.mil.arithmetic import NumpyArithmetic
from mobile_runtime.engines.mil.budget import Budget
from mobile_runtime.engines.onnx.sessions import arena_bytes

GB = 1 << 30


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(memory, container's limit, process's limit), in GB."""

    def make(size, container="max", process=None):
        sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": size * GB // 4096}
        monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
        limit = resource.RLIM_INFINITY if process is None else process * GB
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
        path = tmp_path / "memory.max"
        path.write_text(str(container if container == "max" else container * GB))
        monkeypatch.setattr(memory, "_CONTAINER_LIMIT", path)

    return make


@pytest.mark.parametrize(
    ("limits", "share"),
    [((64,), 16), ((16,), 4), ((4,), 2), ((64, 24), 6), ((64, 4), 2), ((64, "max", 12), 3)],
)
def test_a_quarter_of_what_there_is(machine, limits, share):
    machine(*limits)
    assert memory.memory_share(2 * GB) == share * GB


def test_without_any_limit_it_is_the_least(machine, monkeypatch):
    """As on Windows."""
    machine(64)
    monkeypatch.delattr(os, "sysconf")
    assert memory.memory_share(2 * GB) == 2 * GB


def test_pictures_of_980_fit_where_there_are_16_gb(machine):
    """16 heads, 70 × 70 patches: scores beside their softmax. The arrays are never written to."""
    machine(16)
    scores = np.empty((16, 4900, 4900), np.float32)
    budget = Budget(memory.Limits(), (), NumpyArithmetic(half=True).memory_of)
    budget.take(scores.size, [])
    budget.take(scores.size, [scores])
    arena_bytes.cache_clear()
    assert arena_bytes() >= 2 * scores.nbytes
    arena_bytes.cache_clear()
