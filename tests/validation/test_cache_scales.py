"""Scales of the cache are stored whole or not at all."""

import shutil

import numpy as np
import pytest

from export.backends.onnx.scales import read_cache_scales
from mobile_runtime.bundle import list_files, read_manifest, verify_files
from validation import cache_scales


@pytest.fixture
def bundle(make_onnx_bundle, tmp_path):
    return shutil.copytree(make_onnx_bundle("onnx", "int4-fast", "int8"), tmp_path / "bundle")


def doubled(bundle):
    manifest = read_manifest(bundle)
    (graph,) = manifest.graphs_of("decoder")
    scales = read_cache_scales(bundle / graph.path)
    return manifest, bundle / graph.path, {name: 2 * values for name, values in scales.items()}


def test_new_scales_and_their_checksums_appear_together(bundle):
    manifest, graph, scales = doubled(bundle)
    cache_scales._store(bundle, manifest, scales, {"chats": ["one"]})
    verify_files(bundle, read_manifest(bundle))
    assert read_manifest(bundle).recipe["kv_cache_calibration"] == {"chats": ["one"]}
    for name, values in read_cache_scales(graph).items():
        np.testing.assert_array_equal(values, scales[name])
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("stops_at", ["write_cache_scales", "write_manifest"])
def test_what_stops_between_graph_and_manifest_leaves_the_bundle(bundle, stops_at, monkeypatch):
    manifest, _, scales = doubled(bundle)
    before = list_files(bundle)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_scales, stops_at, stop)
    with pytest.raises(KeyboardInterrupt):
        cache_scales._store(bundle, manifest, scales, {})
    assert list_files(bundle) == before
    verify_files(bundle, read_manifest(bundle))
