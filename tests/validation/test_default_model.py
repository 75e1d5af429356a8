"""What a newcomer sees first: the default model, exported at int4, answers about a picture."""

import pytest

from export.backends import BACKENDS
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from mobile_runtime.session import Session
from tests.paths import ROOT

SIGN = ROOT / "examples/pictures/sign.png"


@pytest.mark.parametrize("backend", ["coreml", "onnx"])
def test_it_reads_the_sign(tmp_path, backend):
    if backend == "onnx":
        pytest.importorskip("onnxruntime")
    config = ExportConfig(output=tmp_path, quant="int4")
    session = Session.load(export_bundle(config, BACKENDS[backend], Progress(quiet=True)))
    content = [
        {"type": "image", "image": str(SIGN)},
        {"type": "text", "text": "What does the sign say?"},
    ]
    assert "".join(session.chat([{"role": "user", "content": content}])) == "MUSEUM"
