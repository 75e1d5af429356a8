"""One decoder layer of the published width: what parity and the interpreter keep in memory."""

import sys
import tracemalloc

import numpy as np
import pytest

from export.backends import BACKENDS
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from mobile_runtime.engines import EngineOptions
from mobile_runtime.engines.mil import MilEngine
from tests.random_checkpoint import write_random_checkpoint
from validation.chats import default_chats
from validation.parity.parity import ParityOptions, run_parity
from validation.sources import open_checkpoint

pytestmark = pytest.mark.full
WIDTHS = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "num_hidden_layers": 1,
}
EXPANDED = 4 * 193_000_000  # bytes of the layer's weights in float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("full")
    write_random_checkpoint(path / "checkpoint", **WIDTHS)
    config = ExportConfig(
        checkpoint=str(path / "checkpoint"),
        output=path / "out",
        quant="int4-fast",
        context_length=1024,
    )
    export_bundle(config, BACKENDS["coreml"], Progress(quiet=True)).rename(path / "bundle")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of the process")
def test_full_width_layer_equals_pytorch_within_its_memory(folder):
    source = open_checkpoint(str(folder / "checkpoint"))
    options = ParityOptions(EngineOptions(precision="fp32"), 2, ["decoder"])
    report = run_parity(folder / "bundle", source, default_chats(), options)
    (stage,) = (stage for stage in report.stages if stage.stage == "decoder")
    assert stage.status == "passed"
    assert stage.same_weights_db > 100
    assert stage.peak_bytes < 4_000_000_000


def test_interpreter_never_expands_a_full_width_layer(folder):
    engine = MilEngine(folder / "bundle/decoder.mlpackage", precision="fp32", cache_bytes=0)
    state = engine.new_state()
    tracemalloc.start()
    try:
        for name, function in engine.functions.items():
            shapes = {spec.name: (spec.shape, spec.dtype) for spec in function.inputs}
            inputs = {n: np.zeros(s, "i" if d == "int32" else "f") for n, (s, d) in shapes.items()}
            engine.run(inputs, function=name, state=state)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < EXPANDED / 10
