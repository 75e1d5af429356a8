"""The memory table of the Swift package's README: its sums, and that it comes from a manifest."""

import importlib.util

from tests.ios_bridge.conftest import ROOT

FOLDER = ROOT / "ios_bridge"


def _module():
    spec = importlib.util.spec_from_file_location("memory_table", FOLDER / "memory_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def graph(name, role, weight_bytes, *, state=None, cache=None):
    inputs = [] if cache is None else [{"name": "key_value_cache", "shape": cache, "dtype": "int8"}]
    states = (
        [] if state is None else [{"name": "key_value_cache", "shape": state, "dtype": "float16"}]
    )
    return {
        "name": name,
        "role": role,
        "path": f"{name}.mlpackage",
        "weight_bytes": weight_bytes,
        "states": states,
        "functions": [{"name": "main", "inputs": inputs, "outputs": []}],
    }


def manifest(decoder_bytes, **cache):
    names = ("vision_encoder", "resampler", "decoder", "lm_head")
    files = [{"path": f"{name}.mlpackage/weights/weight.bin", "size": 10} for name in names]
    return {
        "model": "some",
        "recipe": {"name": "int4"},
        "decoding": {"context_length": 2048},
        "graphs": [
            graph("vision_encoder", "vision_encoder", 100_000_000),
            graph("resampler", "resampler", 20_000_000),
            graph("decoder", "decoder", decoder_bytes, **cache),
            graph("lm_head", "lm_head", 5_000_000),
        ],
        "files": [
            *files,
            {"path": "embed_tokens.bin", "size": 7},
            {"path": "README.md", "size": 3},
        ],
    }


def test_parts_are_summed():
    needs = _module().needs
    found = needs(manifest(1000, state=[2, 4, 2048, 128]))
    assert found == {
        "decoder": 1000,
        "head": 5_000_000,
        "cache": 2 * 4 * 2048 * 128 * 2,
        "vision": 120_000_000,
        "tables": 7,
        "bundle": 50,
        "compiled": 40,
    }
    assert needs(manifest(1000, cache=[2, 4, 64, 32]))["cache"] == 2 * 4 * 64 * 32


def test_a_device_fits_by_what_the_bundle_needs():
    tables = _module().tables
    small = tables(manifest(1_000_000_000)).splitlines()
    assert all(line.endswith("| yes |") for line in small[-4:])
    # 5.4 GB with half a gigabyte left to the app: 6 GB hold it without the vision side alone.
    tight = tables(manifest(5_400_000_000)).splitlines()
    assert [line.split("|")[-2].strip() for line in tight[-4:]] == [
        *("yes", "text alone", "text alone", "no")
    ]


def test_the_readme_has_a_table_of_a_manifest():
    module = _module()
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    written = module.with_tables(readme, manifest(1_000_000_000))
    assert "`some`, recipe `int4`" in written
    start, end = readme.index(module.BEGIN), readme.index(module.END)
    table = readme[start:end]
    assert "recipe `int4`" in table and table.count("\n|") == 18
