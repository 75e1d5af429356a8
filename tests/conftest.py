"""What all tests share: the published chat template, a random checkpoint, bundles made from it."""

import json
import logging
import platform
from functools import cache

import pytest

from export.backends import BACKENDS
from export.build.progress import Progress
from export.config import ExportConfig
from export.pipeline import export_bundle
from tests.paths import SHARED
from tests.random_checkpoint import write_random_checkpoint

logging.getLogger("coremltools").setLevel(logging.ERROR)


def pytest_collection_modifyitems(items):
    """Tests that need Core ML's own runtime skip where it cannot be."""
    if platform.system() != "Darwin":
        skip = pytest.mark.skip(reason="needs macOS: Core ML's own predict")
        for item in items:
            if "macos" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Finished packages are kept in a folder of this run, not in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared():
    """The folder with published files and golden data; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the published files in ../shared")
    return SHARED


@pytest.fixture(scope="session")
def chat_template(shared):
    """The published chat template."""
    text = (shared / "upstream/tokenizer_config.json").read_text(encoding="utf-8")
    return json.loads(text)["chat_template"]


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory):
    """A tiny checkpoint folder with seeded random weights."""
    folder = tmp_path_factory.mktemp("random") / "checkpoint"
    write_random_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def make_bundle(random_checkpoint, tmp_path_factory):
    """Export the random checkpoint, once for each set of options."""

    @cache
    def make(quant="int4-fast", kv_cache="state", context_length=512, **options):
        config = ExportConfig(
            checkpoint=str(random_checkpoint),
            output=tmp_path_factory.mktemp("bundles"),
            quant=quant,
            kv_cache=kv_cache,
            context_length=context_length,
            **options,
        )
        return export_bundle(config, BACKENDS["coreml"], Progress(quiet=True))

    return make


@pytest.fixture(scope="session")
def make_onnx_bundle(random_checkpoint, tmp_path_factory):
    """Export a checkpoint, by default the random one, for onnxruntime, once for each set of
    options."""

    @cache
    def make(
        backend="onnx", quant="int4-fast", kv_cache=None, checkpoint=random_checkpoint, **options
    ):
        config = ExportConfig(
            checkpoint=str(checkpoint),
            output=tmp_path_factory.mktemp("onnx"),
            quant=quant,
            kv_cache=kv_cache,
            **{"context_length": 320, **options},
        )
        return export_bundle(config, BACKENDS[backend], Progress(quiet=True))

    return make
