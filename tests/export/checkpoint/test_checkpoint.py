"""Checkpoint folders: sharding, damage, types, digests, the hub."""

import hashlib
import json
import os
from fnmatch import fnmatch
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from export.checkpoint import locate
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.locate import locate_checkpoint
from export.checkpoint.source import check_tensors, content_sha256
from mobile_runtime.errors import InputError
from tests.processes import run_python

INDEX = "model.safetensors.index.json"


def sample(dtype=ml_dtypes.bfloat16):
    values = np.random.default_rng(0).normal(size=(6, 4)).astype(dtype)
    return {"a.weight": values, "b.bias": values[0].copy(), "c.weight": values[2:5].copy()}


def write_shards(folder, shards, weight_map=None):
    """`shards`: file -> tensors; the index says where each is, unless `weight_map` is given."""
    folder.mkdir(exist_ok=True)
    for shard, tensors in shards.items():
        save_file(tensors, folder / shard)
    found = {name: shard for shard, tensors in shards.items() for name in tensors}
    index = {"metadata": {}, "weight_map": found if weight_map is None else weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def write_single(folder, tensors):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def split(tensors):
    """The tensors in two shards."""
    first, *rest = tensors
    return {
        "model-00001-of-00002.safetensors": {first: tensors[first]},
        "model-00002-of-00002.safetensors": {name: tensors[name] for name in rest},
    }


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
@pytest.mark.parametrize("sharded", [False, True])
def test_tensors_come_out_as_they_were_stored(tmp_path, dtype, sharded):
    tensors = sample(dtype)
    folder = tmp_path / "model"
    folder = write_shards(folder, split(tensors)) if sharded else write_single(folder, tensors)
    checkpoint = Checkpoint(folder)
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, values in tensors.items():
        read = checkpoint.read(name)
        assert read.dtype == values.dtype
        assert checkpoint.tensors[name].dtype == np.dtype(dtype).name
        assert checkpoint.tensors[name].shape == values.shape
        np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(("begin", "end"), [(0, 6), (1, 3), (4, 9), (5, 6)])
def test_rows_past_the_end_are_left_out(tmp_path, begin, end):
    tensors = sample()
    rows = Checkpoint(write_single(tmp_path, tensors)).read_rows("a.weight", begin, end)
    np.testing.assert_array_equal(rows, tensors["a.weight"][begin:end])


@pytest.mark.parametrize(("begin", "end"), [(6, 8), (7, 9)])
def test_rows_that_all_lie_past_the_end_are_none(tmp_path, begin, end):
    rows = Checkpoint(write_single(tmp_path, sample())).read_rows("a.weight", begin, end)
    assert rows.shape == (0, 4)


def test_missing_shard_is_named(tmp_path):
    folder = write_shards(tmp_path, split(sample()))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks the shard model-00002-of-00002.safetensors"):
        Checkpoint(folder)


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_truncated_shard_is_named_before_anything_is_read(tmp_path, kept):
    folder = write_shards(tmp_path, split(sample()))
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors is truncated"):
        Checkpoint(folder)


def test_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"PK\x03\x04 a pickled model" * 10)
    with pytest.raises(InputError, match="not a safetensors file"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("change", ["lists more", "lists less", "lists elsewhere"])
def test_index_that_names_other_tensors_is_refused(tmp_path, change):
    shards = split(sample())
    first, second = shards
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    if change == "lists more":
        weight_map["d.weight"] = second
    elif change == "lists less":
        del weight_map["c.weight"]
    else:
        weight_map["c.weight"] = first
    with pytest.raises(InputError, match=r"does not hold the tensors that the index lists"):
        Checkpoint(write_shards(tmp_path, shards, weight_map))


@pytest.mark.parametrize("shard", ["../model.safetensors", "/model.safetensors", "sub/m.st", 3])
def test_shard_outside_the_folder_is_refused(tmp_path, shard):
    write_single(tmp_path, sample())
    folder = write_shards(tmp_path / "inner", {}, {name: shard for name in sample()})
    with pytest.raises(InputError, match=r"names the shard .* outside the folder"):
        Checkpoint(folder)


@pytest.mark.parametrize("shard", ["..", ".", ""])
def test_shard_that_is_a_folder_is_refused(tmp_path, shard):
    with pytest.raises(InputError, match="shard"):
        Checkpoint(write_shards(tmp_path, {}, {"a.weight": shard}))


def test_tensor_in_two_shards_is_refused_by_name(tmp_path):
    tensors = sample()
    shards = {"one.safetensors": tensors, "two.safetensors": {"c.weight": tensors["c.weight"]}}
    with pytest.raises(InputError, match=r"c\.weight"):
        Checkpoint(write_shards(tmp_path, shards))


@pytest.mark.parametrize("dtype", [np.int8, np.float64, np.bool_])
def test_unsupported_type_names_tensor_and_type(tmp_path, dtype):
    tensors = sample() | {"q.weight": np.ones((2, 2), dtype)}
    with pytest.raises(InputError, match=r"tensor q\.weight in model\.safetensors has type"):
        Checkpoint(write_single(tmp_path, tensors))


def test_pickled_weights_are_not_read(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="pickled weights are not read"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 1}'])
def test_damaged_index_is_named(tmp_path, index):
    write_single(tmp_path, sample())
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(InputError, match=r"index\.json"):
        Checkpoint(tmp_path)


def test_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        Checkpoint(tmp_path / "absent")


def test_check_lists_every_kind_of_difference(tmp_path):
    checkpoint = Checkpoint(write_single(tmp_path, sample()))
    check_tensors(
        checkpoint, {"a.weight": (6, 4), "b.bias": (4,), "c.weight": (3, 4)}, "the folder", "whole"
    )
    with pytest.raises(InputError) as caught:
        check_tensors(
            checkpoint,
            {"a.weight": (4, 6), "b.bias": (4,), "z.weight": (1,)},
            "the folder",
            "whole",
        )
    text = str(caught.value)
    assert "missing: z.weight" in text
    assert "unexpected: c.weight" in text
    assert "wrong shape: a.weight is [6, 4], expected [4, 6]" in text


def test_long_list_of_missing_tensors_is_cut_with_a_count(tmp_path):
    checkpoint = Checkpoint(write_single(tmp_path, sample()))
    expected = {f"layer.{n:03d}": (1,) for n in range(800)}
    with pytest.raises(InputError) as caught:
        check_tensors(checkpoint, expected, "the folder", "whole")
    assert len(str(caught.value)) < 1000
    assert "layer.000" in str(caught.value)
    assert "and 788 more" in str(caught.value)


def digest(folder, tensors):
    return content_sha256(Checkpoint(write_single(folder, tensors)))


def test_digest_does_not_depend_on_sharding_or_on_what_was_read_before(tmp_path):
    tensors = sample()
    single = digest(tmp_path / "single", tensors)
    sharded = Checkpoint(write_shards(tmp_path / "sharded", split(tensors)))
    sharded.read("c.weight")
    assert content_sha256(sharded) == single
    assert content_sha256(sharded) == single
    assert len(single) == 64


def test_digest_depends_on_every_byte(tmp_path):
    digests = {digest(tmp_path / "original", sample())}
    for n in range(48):
        tensors = sample()
        tensors["a.weight"].reshape(-1).view(np.uint8)[n] ^= 1
        digests.add(digest(tmp_path / f"byte{n}", tensors))
    assert len(digests) == 49


@pytest.mark.parametrize("change", ["name", "shape", "type", "swap"])
def test_digest_depends_on_names_shapes_and_types(tmp_path, change):
    tensors = sample()
    original = digest(tmp_path / "original", tensors)
    if change == "name":
        tensors["d.weight"] = tensors.pop("c.weight")
    elif change == "shape":
        tensors["a.weight"] = tensors["a.weight"].reshape(4, 6)
    elif change == "type":
        tensors["a.weight"] = tensors["a.weight"].view(np.float16)
    else:
        tensors["b.bias"], tensors["c.weight"] = tensors["c.weight"], tensors["b.bias"]
    assert digest(tmp_path / "changed", tensors) != original


def test_folder_is_taken_as_it_is(tmp_path):
    assert locate_checkpoint(str(tmp_path)) == tmp_path


@pytest.fixture
def hub(monkeypatch):
    """hub(answer) replaces the download; records what was asked for."""
    import huggingface_hub

    asked = []

    def install(answer):
        def download(repo, **options):
            asked.append((repo, options))
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return asked

    return install


def test_hub_id_is_fetched_without_code_or_pickles(hub, tmp_path):
    asked = hub(tmp_path)
    assert locate_checkpoint("openbmb/MiniCPM-V-4_5") == tmp_path
    ((repo, options),) = asked
    assert repo == "openbmb/MiniCPM-V-4_5"

    def wanted(name):
        return any(fnmatch(name, pattern) for pattern in options["allow_patterns"])

    assert all(map(wanted, ["config.json", INDEX, "model-00001-of-00004.safetensors"]))
    assert all(map(wanted, ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]))
    assert not any(map(wanted, ["modeling_minicpmv.py", "pytorch_model.bin", "model.pt"]))


def test_a_plan_of_a_hub_id_fetches_no_weights(hub, tmp_path):
    asked = hub(tmp_path)
    locate_checkpoint("openbmb/MiniCPM-V-4_5", weights=False)
    ((_, options),) = asked
    assert not any(fnmatch("a.safetensors", pattern) for pattern in options["allow_patterns"])


@pytest.mark.parametrize("error", [OSError("no network"), ValueError("404: not found")])
def test_hub_id_that_does_not_exist_is_one_sentence(hub, error):
    hub(error)
    with pytest.raises(InputError, match=r"nobody/nothing is not a folder and could not") as caught:
        locate_checkpoint("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["absent", "./absent/folder", "/absent", "a/b/c", "../x"])
def test_path_that_is_absent_never_reaches_the_hub(hub, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = hub(AssertionError("the hub was asked"))
    with pytest.raises(InputError, match="no checkpoint at"):
        locate_checkpoint(given)
    assert not asked


def test_buffers_that_were_saved_are_left_out_whatever_their_type(tmp_path):
    """Positions, frequencies and tables of sines are computed, not learned."""
    buffers = {
        "vpm.embeddings.position_ids": np.arange(4)[None],
        "llm.model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32),
        "resampler.pos_embed": np.ones((2, 2), np.float32),
    }
    single = Checkpoint(write_single(tmp_path / "single", {**sample(), **buffers}))
    sharded = write_shards(tmp_path / "shards", {"a.safetensors": {**sample(), **buffers}})
    plain = Checkpoint(write_single(tmp_path / "plain", sample()))
    for checkpoint in (single, Checkpoint(sharded)):
        assert checkpoint.tensors == plain.tensors
        assert content_sha256(checkpoint) == content_sha256(plain)


def test_an_index_of_shards_that_are_gone_gives_way_to_the_single_file(tmp_path):
    """As after saving a fine-tune into the folder of a sharded model."""
    folder = write_shards(tmp_path / "it", {"model-00001-of-00001.safetensors": sample()})
    other = {name: values[:1] for name, values in sample().items()}
    write_single(folder, other)
    assert Checkpoint(folder).tensors["a.weight"].shape == (6, 4), "the shards are there"
    (folder / "model-00001-of-00001.safetensors").unlink()
    assert Checkpoint(folder).tensors["a.weight"].shape == (1, 4)


def test_an_adapter_is_called_one(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file(
        {"base_model.model.a.lora_A.weight": np.ones(2)}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(InputError, match=r"holds an adapter .* with --adapter"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("prefix", ["model.", "module.", "base_model.model."])
def test_a_wrapped_model_is_called_one(tmp_path, prefix):
    tensors = {f"{prefix}{name}": values for name, values in sample().items()}
    checkpoint = Checkpoint(write_single(tmp_path / "it", tensors))
    expected = {name: values.shape for name, values in sample().items()}
    with pytest.raises(InputError, match=f"its names begin with '{prefix}'"):
        check_tensors(checkpoint, expected, "the folder", "whole")


def test_a_tied_tensor_may_stand_beside_its_equal(tmp_path):
    expected = {"a.weight": (6, 4), "b.bias": (4,), "c.weight": (3, 4)}
    tied = {"head.weight": "a.weight"}
    same = {**sample(), "head.weight": sample()["a.weight"]}
    check_tensors(Checkpoint(write_single(tmp_path / "same", same)), expected, "it", "whole", tied)
    check_tensors(Checkpoint(write_single(tmp_path / "none", sample())), expected, "it", "w", tied)
    own = {**sample(), "head.weight": -sample()["a.weight"]}
    with pytest.raises(InputError, match=r"head.weight is not a.weight, to which tie_word_embeddi"):
        check_tensors(Checkpoint(write_single(tmp_path / "own", own)), expected, "it", "w", tied)
    check_tensors(
        Checkpoint(tmp_path / "own"), {**expected, "head.weight": (6, 4)}, "it", "w", tied
    )


def test_a_shard_that_is_written_to_is_another_even_if_its_time_is_put_back(tmp_path):
    folder = write_single(tmp_path / "it", sample())
    before, path = Checkpoint(folder).identity("a.weight"), folder / "model.safetensors"
    status = path.stat()
    assert Checkpoint(folder).identity("a.weight") == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert Checkpoint(folder).identity("a.weight") != before


def overwritten(path):
    """One byte, and its time put back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def snapshot(hub, tmp_path, monkeypatch):
    """(the large file and the small one of a snapshot as the hub's client makes it, names of the
    blobs whose bytes were read)."""
    contents = {"model.safetensors": b"w" * 1000, "config.json": b"{}"}
    blobs, folder, made = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/1", []
    for parent in (blobs, folder):
        parent.mkdir(parents=True)
    for name, data in contents.items():
        small = hashlib.sha1(b"blob %d\0" % len(data) + data)
        digest = small if name == "config.json" else hashlib.sha256(data)
        made.append(blobs / digest.hexdigest())
        made[-1].write_bytes(data)
        (folder / name).symlink_to(made[-1])
    hub(folder)
    read, digest = [], locate._digest
    monkeypatch.setattr(
        locate, "_digest", lambda path, kind: read.append(path.name) or digest(path, kind)
    )
    return made, read


def test_a_large_file_of_the_hub_is_hashed_once(snapshot, tmp_path):
    (large, small), read = snapshot
    for expected in ({large.name, small.name}, {small.name}):
        read.clear()
        locate_checkpoint("a/b", cache=tmp_path / "cache")
        assert set(read) == expected
    read.clear()
    locate_checkpoint("a/b")
    assert large.name in read


@pytest.mark.parametrize("change", [overwritten, lambda path: os.truncate(path, 10)])
def test_a_noted_file_that_changed_is_refused_and_removed(snapshot, tmp_path, change):
    (large, _), _ = snapshot
    locate_checkpoint("a/b", cache=tmp_path / "cache")
    change(large)
    with pytest.raises(InputError, match="is not what the hub says it is"):
        locate_checkpoint("a/b", cache=tmp_path / "cache")
    assert not large.exists()


@pytest.mark.parametrize("damage", [overwritten, Path.unlink, lambda path: os.truncate(path, 50)])
def test_a_note_that_is_damaged_is_made_again(snapshot, tmp_path, damage):
    (large, _), read = snapshot
    locate_checkpoint("a/b", cache=tmp_path / "cache")
    damage(tmp_path / "cache/checked" / large.name)
    for times in (1, 0):
        read.clear()
        locate_checkpoint("a/b", cache=tmp_path / "cache")
        assert read.count(large.name) == times


def test_a_wrong_file_is_not_noted(snapshot, tmp_path):
    (large, _), _ = snapshot
    overwritten(large)
    with pytest.raises(InputError, match="is not what the hub says it is"):
        locate_checkpoint("a/b", cache=tmp_path / "cache")
    assert not (tmp_path / "cache/checked" / large.name).exists()


WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("no torch", name="torch")
sys.meta_path.insert(0, Absent())
from export.cli import main as export
from validation.cli import main as validate
given = ["--checkpoint", sys.argv[1]]
codes = [export(["coreml", *given])]
for command in (["parity", "x"], ["answers", "x"], ["quality", "x", "--copying"],
                ["trace", "--messages", "x", "--output", "x"]):
    codes.append(validate([*command, *given]))
print(codes)
"""


@pytest.mark.parametrize(
    ("given", "said"), [("model.safetensors", "is a file; give the folder"), ("a/b/c", "no checkp")]
)
def test_a_wrong_checkpoint_is_told_before_pytorch_is_missed(given, said, tmp_path):
    (tmp_path / "model.safetensors").touch()
    done = run_python("-c", WITHOUT_TORCH, tmp_path / given)
    assert done.stdout.strip() == "[2, 2, 2, 2, 2]", done.stderr
    assert [said in line for line in done.stderr.splitlines()] == [True] * 5
