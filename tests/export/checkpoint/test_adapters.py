"""Adapters merged while they are read: against what PEFT merges, and what it cannot tell apart."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.checkpoint import open_source
from export.checkpoint.adapters import (
    merged_source,
    open_adapter,
    parse_adapter,
    read_adapted_folder,
    write_adapted_folder,
)
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.source import bytes_of, content_sha256
from export.cli import main
from mobile_runtime.errors import InputError

FOLDER = Path(__file__).parent / "adapters"  # written by write_adapters.py, with PEFT
RECORD = json.loads((FOLDER / "merged.json").read_text(encoding="utf-8"))


def opened(checkpoint, *given):
    return merged_source(Checkpoint(checkpoint), [parse_adapter(str(one)) for one in given])


def given(merge):
    return [f"{FOLDER / name}={weight}" for name, weight in RECORD["merges"][merge]]


def changed(source, before):
    """SHA-256 of the tensors that differ, by name."""
    digests = {
        name: source.digest(name, 0, info.row_count) for name, info in source.tensors.items()
    }
    return {
        name: digest
        for name, digest in digests.items()
        if digest != before.digest(name, 0, before.tensors[name].row_count)
    }


@pytest.mark.parametrize("merge", RECORD["merges"].keys())
def test_tensors_are_those_that_peft_merges(random_checkpoint, merge):
    """To the bit, but for rows whose norms PEFT sums up in another order."""
    found = changed(opened(random_checkpoint, *given(merge)), Checkpoint(random_checkpoint))
    expected = RECORD["sha256"][merge]
    assert found.keys() == expected.keys()
    others = [name for name in found if found[name] != expected[name]]
    assert len(others) <= (1 if merge == "dora" else 0)


def test_dora_gives_rows_their_magnitudes(random_checkpoint):
    name, part = (
        "llm.model.layers.1.self_attn.v_proj.weight",
        "base_model.model.llm.model.layers.1.",
    )
    file = load_file(FOLDER / "dora" / "adapter_model.safetensors")
    a, b, magnitude = (
        file[f"{part}self_attn.v_proj.lora_{kind}"].astype(np.float64)
        for kind in ("A.weight", "B.weight", "magnitude_vector")
    )
    before = Checkpoint(random_checkpoint).read(name).astype(np.float64)
    total = before + 2 * b @ a  # alpha 4, rank 2
    expected = total * (magnitude / np.linalg.norm(total, axis=1))[:, None]
    found = opened(random_checkpoint, FOLDER / "dora").read(name).astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=2**-8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), magnitude, rtol=2**-8)


@pytest.mark.parametrize("merge", ["two", "embedding", "dora"])
def test_rows_are_merged_as_in_the_whole(random_checkpoint, merge):
    source = opened(random_checkpoint, *given(merge))
    for name in RECORD["sha256"][merge]:
        whole, count = source.read(name), source.tensors[name].row_count
        parts = [source.read_rows(name, n, n + 30) for n in range(0, count, 30)]
        assert bytes_of(np.concatenate(parts)) == bytes_of(whole)
        digest = hashlib.sha256(bytes_of(whole[7:50])).hexdigest()
        assert source.digest(name, 7, 50) == digest
        assert source.identity(name) != Checkpoint(random_checkpoint).identity(name)


def test_a_folder_stands_for_the_merged_checkpoint(random_checkpoint, tmp_path):
    adapters = [parse_adapter(one) for one in given("two")]
    folder = write_adapted_folder(random_checkpoint, adapters, tmp_path / "cache")
    assert write_adapted_folder(random_checkpoint, adapters, tmp_path / "cache") == folder
    assert read_adapted_folder(folder) == (random_checkpoint, adapters)
    merged = merged_source(Checkpoint(random_checkpoint), adapters)
    assert content_sha256(open_source(folder)) == content_sha256(merged)
    other = write_adapted_folder(random_checkpoint, adapters[:1], tmp_path / "cache")
    assert other != folder and {path.name for path in tmp_path.glob("cache/*")} == {
        folder.name,
        other.name,
    }


@pytest.mark.parametrize("quant", ["int4-fast", "int4"])
def test_a_bundle_is_that_of_the_merged_checkpoint(random_checkpoint, tmp_path, quant):
    merged = tmp_path / "merged" / random_checkpoint.name
    shutil.copytree(random_checkpoint, merged)
    source = opened(random_checkpoint, *given("two"))
    save_file({name: source.read(name) for name in source.tensors}, merged / "model.safetensors")
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"texts": ["The quick brown fox. " * 30, "0123456789 " * 40]}))
    options = ["--quant", quant, "--context-length", "64", "--prefill-length", "4", "--quiet"]
    options += ["--calibration", str(texts)] if quant == "int4" else []
    bundles = []
    for name, arguments in {
        "ours": [str(random_checkpoint), *(f"--adapter={one}" for one in given("two"))],
        "theirs": [str(merged)],
    }.items():
        out = ["--output", str(tmp_path / name), "--cache", str(tmp_path / f"{name}-cache")]
        assert main(["coreml", "--checkpoint", *arguments, *options, *out]) == 0
        bundles += (tmp_path / name).iterdir()
    ours, theirs = bundles
    assert ours.name.endswith("-lora-rslora" + ("-calibrated" if quant == "int4" else ""))
    contents = [
        {str(p.relative_to(b)): p.read_bytes() for p in b.rglob("*") if p.is_file()}
        for b in bundles
    ]
    assert contents[0].keys() == contents[1].keys()
    differing = {name for name in contents[0] if contents[0][name] != contents[1][name]}
    # The record of a calibration names the cache's entry, and that its checkpoint's folder.
    assert differing <= ({"manifest.json"} if quant == "int4" else set())
    assert theirs != ours


def copied(tmp_path, name, config=None, tensors=None):
    folder = tmp_path / f"changed-{name}"
    shutil.copytree(FOLDER / name, folder)
    if config is not None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if tensors is not None:
        path = folder / "adapter_model.safetensors"
        save_file(tensors(load_file(path)), path)
    return folder


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"peft_type": "IA3"}, None, 'says peft_type: "IA3", which is not merged here; merge it'),
        ({"use_qalora": True}, None, "says use_qalora: true"),
        ({"target_parameters": ["experts"]}, None, "says target_parameters"),
        ({"init_lora_weights": "pissa_niter_4"}, None, "began with a changed base model"),
        ({"lora_alpha": "8"}, None, "lora_alpha '8' must be a number"),
        (None, lambda t: {}, "is empty"),
        (None, lambda t: {**t, "model.x.lora_A.weight": np.ones(2, "f4")}, "for no tensor"),
        (None, lambda t: {n: v for n, v in t.items() if "lora_B" not in n}, "lacks lora_B of"),
        (None, lambda t: {n: v[:-1] for n, v in t.items()}, "which do not multiply"),
        (None, lambda t: {n: v[:, :-1] if "A" in n else v for n, v in t.items()}, "is for a"),
    ],
)
def test_what_cannot_be_merged_is_refused(random_checkpoint, tmp_path, config, tensors, said):
    folder = copied(tmp_path, "lora", config, tensors)
    with pytest.raises(InputError) as error:
        open_adapter(parse_adapter(str(folder)), Checkpoint(random_checkpoint).tensors)
    assert said in str(error.value)


def test_a_folder_without_an_adapter_is_refused(random_checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"holds no adapter_config.json; give the folder"):
        parse_adapter(str(random_checkpoint))
    with pytest.raises(InputError, match=r"must be a finite number"):
        parse_adapter(f"{FOLDER / 'lora'}=nan")
    folder = copied(tmp_path, "lora")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"pickled weights are not read"):
        open_adapter(parse_adapter(str(folder)), {})


def test_folders_may_have_equals_signs(tmp_path):
    folder = copied(tmp_path, "lora").rename(tmp_path / "r=2")
    assert parse_adapter(str(folder)).weight == 1
    assert parse_adapter(f"{folder}=0.5").weight == 0.5
    assert parse_adapter(f"{folder}=0.5").folder == folder


def test_validation_merges_as_the_export_did(random_checkpoint, tmp_path, capsys):
    from validation.cli import main as validate

    out = ["--output", str(tmp_path), "--cache", str(tmp_path / "cache"), "--quiet"]
    adapter = ["--checkpoint", str(random_checkpoint), "--adapter", f"{FOLDER / 'lora'}=0.5"]
    sizes = ["--context-length", "512", "--prefill-length", "4", "--quant", "int4-fast"]
    assert main(["coreml", *adapter, *out, *sizes]) == 0
    (bundle,) = tmp_path.glob("minicpmv-*")
    parity = ["parity", str(bundle), "--stages", "lm_head"]
    assert validate([*parity, *adapter]) == 0
    assert validate([*parity, *adapter[:2]]) == 2
    assert "its weights have another checksum" in capsys.readouterr().err


def test_a_trace_is_that_of_the_merged_checkpoint(random_checkpoint, tmp_path, capsys):
    from validation.cli import main as validate

    merged, one = tmp_path / "merged", f"{FOLDER / 'lora'}=0.5"
    shutil.copytree(random_checkpoint, merged)
    source = opened(random_checkpoint, one)
    save_file({name: source.read(name) for name in source.tensors}, merged / "model.safetensors")
    (tmp_path / "chat.json").write_text('[{"role": "user", "content": "Hi"}]')
    messages = ["--messages", str(tmp_path / "chat.json"), "--max-new-tokens", "2"]
    found = []
    for name, given in {
        "ours": ["--checkpoint", str(random_checkpoint), "--adapter", one],
        "theirs": ["--checkpoint", str(merged)],
        "base": ["--checkpoint", str(random_checkpoint)],
    }.items():
        assert validate(["trace", *given, *messages, "--output", str(tmp_path / name)]) == 0
        found.append(np.load(tmp_path / name)["logits"])
    ours, theirs, base = found
    assert np.array_equal(ours, theirs) and not np.array_equal(ours, base)
    bundle = ["trace", "--bundle", "x", "--adapter", one, *messages, "--output", "x"]
    assert validate(bundle) == 2
    assert "a bundle holds its adapters already" in capsys.readouterr().err
