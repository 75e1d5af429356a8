"""Matrices of calibrated bundles, read back from their files, are those that were stored."""

import json

import numpy as np
import pytest

from export.backends import BACKENDS
from export.build.progress import Progress
from export.checkpoint import open_source
from export.checkpoint.calibrated import CALIBRATED
from export.config import ExportConfig
from export.pipeline import export_bundle
from mobile_runtime.bundle import read_manifest
from mobile_runtime.errors import InputError
from validation.sources import open_checkpoint, prepared_like
from validation.stored import read_stored

TEXTS = ["The quick brown fox jumps over the lazy dog. " * 9, "1234567890 " * 40]
CASES = [
    ("coreml", {}),
    ("coreml", {"quant": "int8"}),
    ("coreml", {"override": {"decoder": "int6"}}),
    ("onnx", {}),
    ("onnx", {"quant": "int8"}),
    ("onnx", {"override": {"decoder": "int4a"}}),
    ("onnx-portable", {}),
    ("onnx-portable", {"override": {"decoder": "int4a"}}),
]


@pytest.fixture(scope="module")
def export(random_checkpoint, tmp_path_factory):
    """export(backend, options) -> the bundle, and the folder of its calibration."""

    def run(backend, options):
        folder = tmp_path_factory.mktemp("stored")
        (folder / "texts.json").write_text(json.dumps({"texts": TEXTS}))
        config = ExportConfig(
            checkpoint=str(random_checkpoint),
            calibration=str(folder / "texts.json"),
            output=folder / "out",
            cache=folder / "cache",
            context_length=320,
            prefill_length=8,
            **options,
        )
        bundle = export_bundle(config, BACKENDS[backend], Progress(quiet=True))
        (calibration,) = (folder / "cache" / CALIBRATED).iterdir()
        return bundle, calibration

    return run


@pytest.mark.parametrize(("backend", "options"), CASES)
def test_matrices_are_those_of_the_calibration(export, random_checkpoint, backend, options):
    bundle, folder = export(backend, options)
    calibrated = open_source(folder)
    source = prepared_like(bundle, open_checkpoint(str(random_checkpoint)))
    assert source.stored.weights == calibrated.weights and len(calibrated.weights) >= 14
    for name in calibrated.weights:
        np.testing.assert_array_equal(source.stored.read(name), calibrated.read(name), name)


def test_a_bundle_without_one_of_them_is_refused(export):
    bundle, folder = export("coreml", {})
    specs = dict(open_source(folder).weights)
    shapes = {name: (16, 16) for name in specs}
    spec = next(iter(specs.values()))
    with pytest.raises(InputError, match=r"lacks another\.weight in the form of its manifest"):
        read_stored(bundle, read_manifest(bundle), {"another.weight": spec}, shapes)
