"""Bundles of the random checkpoint in both formats, of 128 positions."""

import pytest

from export.backends import BACKENDS
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle


@pytest.fixture(scope="session", params=["coreml", "onnx"])
def scored_bundle(request, random_checkpoint, tmp_path_factory):
    config = ExportConfig(
        checkpoint=str(random_checkpoint),
        output=tmp_path_factory.mktemp("scored"),
        quant="none",
        context_length=128,
    )
    return export_bundle(config, BACKENDS[request.param], Progress(quiet=True))
