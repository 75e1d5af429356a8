"""Bundles share files with the cache of parts: nobody can damage one by the other unawares, and a
cache that is removed is noticed."""

import os
import shutil
from dataclasses import replace

import pytest

from export import pipeline
from export.backends import BACKENDS
from export.build import parts
from export.build.part_cache import PartCache
from export.build.progress import Progress
from export.pipeline import export_bundle
from mobile_runtime.bundle import read_manifest, verify_files
from mobile_runtime.errors import InputError


def export(config):
    return export_bundle(config, BACKENDS["coreml"], Progress(quiet=True))


def test_files_that_are_shared_with_the_cache_are_read_only(config):
    bundle = export(config)
    shared = [p for p in bundle.rglob("*") if p.is_file() and p.stat().st_nlink > 1]
    assert any(path.suffix == ".bin" for path in shared)
    assert [path for path in shared if path.stat().st_mode & 0o222] == []
    for path in shared if os.geteuid() else ():  # root writes where it likes
        with pytest.raises(PermissionError):
            path.open("r+b")
    second = export(replace(config, output=config.output / "other"))  # out of the cache
    verify_files(second, read_manifest(second))
    shutil.rmtree(bundle)
    shutil.rmtree(config.cache)
    assert not bundle.exists() and not config.cache.exists()


def before(owner, name, monkeypatch, happens):
    called = getattr(owner, name)

    def changed(*given, **options):
        happens()
        return called(*given, **options)

    monkeypatch.setattr(owner, name, changed)


def after(owner, name, monkeypatch, happens):
    called = getattr(owner, name)

    def changed(*given, **options):
        result = called(*given, **options)
        happens()
        return result

    monkeypatch.setattr(owner, name, changed)


MOMENTS = {
    "within a part": (after, parts, "store", "coreml"),
    "before a part is kept": (before, PartCache, "keep", "coreml"),
    "after a part was kept": (after, PartCache, "keep", "onnx"),
    "before the parts are linked": (before, pipeline, "place", "coreml"),
    "after the parts were linked": (before, pipeline, "build_tokenizer_files", "coreml"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_cache_that_is_removed_is_one_sentence_or_the_whole_bundle(moment, config, monkeypatch):
    when, owner, name, backend = MOMENTS[moment]

    def run():
        return export_bundle(config, BACKENDS[backend], Progress(quiet=True))

    with monkeypatch.context() as patch:
        when(owner, name, patch, lambda: shutil.rmtree(config.cache, ignore_errors=True))
        try:
            bundle = run()
        except InputError as error:
            assert "was removed while the export used it; run the same command" in str(error)
            bundle = None
    if bundle is None:
        assert [path for path in config.output.rglob("*") if path.is_file()] == []
        bundle = run()
    verify_files(bundle, read_manifest(bundle))
