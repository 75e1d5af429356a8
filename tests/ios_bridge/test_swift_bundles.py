"""`minicpmv verify`: intact bundles are accepted, tampered ones refused as in Python."""

import hashlib
import json
import random
import re

import pytest

from mobile_runtime.bundle import read_manifest, verify_files
from mobile_runtime.errors import InputError
from tests.tampered_bundles import CASES, TABLE, tamper, write_bundle


def test_the_intact_bundle_is_accepted(minicpmv, tmp_path):
    output = minicpmv("verify", write_bundle(tmp_path / "bundle")).decode()
    size = sum(len(text) for text in TABLE["files"].values())
    assert output == f"{len(TABLE['files'])} files, {size} bytes: all checksums match\n"


@pytest.mark.parametrize("name", CASES)
def test_a_tampered_bundle_is_refused_with_one_sentence(name, minicpmv, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    tamper(bundle, CASES[name]["edit"])
    done = minicpmv("verify", bundle, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    sentence = done.stderr.decode()
    assert CASES[name]["text"] in sentence
    assert sentence.count("\n") == 1


def _places(value, place=()):
    yield place
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from _places(value[key], (*place, key))


REPLACEMENTS = (0, 1, -1, 2.5, 1e30, 10**25, True, None, "", "x", "é\n", [], [0, 1], {}, {"a": 0})


def _before_value(sentence):
    return re.split(", not | has schema version ", sentence)[0]


def test_random_edits_of_a_manifest_are_judged_as_in_python(minicpmv, tmp_path):
    """Both accept, or both refuse with the same sentence up to how a value is shown."""
    rng = random.Random(0)
    places = [place for place in _places(TABLE["manifest"]) if place]
    wrong = []
    accepted = 0
    for number in range(150):
        bundle = write_bundle(tmp_path / str(number))
        tamper(bundle, {"set": [list(rng.choice(places)), rng.choice(REPLACEMENTS)]})
        try:
            verify_files(bundle, read_manifest(bundle))
            expected = ""
        except InputError as error:
            expected = str(error)
        done = minicpmv("verify", bundle, check=False)
        found = done.stderr.decode().removeprefix("error: ").rstrip("\n")
        accepted += expected == ""
        if _before_value(expected) != _before_value(found):
            wrong.append((expected, found))
    assert wrong == []
    assert 10 < accepted < 100


def test_a_verification_goes_on_where_it_was_interrupted(minicpmv, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    state = tmp_path / "state.json"
    last = sorted(TABLE["files"])[-1]
    good = (bundle / last).read_bytes()
    (bundle / last).write_bytes(good[::-1])
    assert b"checksum" in minicpmv("verify", bundle, "--state", state, check=False).stderr
    (bundle / last).write_bytes(good)
    count = len(TABLE["files"])
    assert (
        f"{count - 1} of them verified before"
        in minicpmv("verify", bundle, "--state", state).decode()
    )
    # A file that has changed since is read again, whatever the state says.
    (bundle / "embed_tokens.bin").write_bytes(b"hgfedcba")
    assert b"checksum" in minicpmv("verify", bundle, "--state", state, check=False).stderr


def test_the_state_of_another_bundle_is_ignored(minicpmv, tmp_path):
    state = tmp_path / "state.json"
    minicpmv("verify", write_bundle(tmp_path / "one"), "--state", state)
    other = write_bundle(tmp_path / "other")
    tamper(other, {"set": [["model"], "other"]})
    assert b"verified before" not in minicpmv("verify", other, "--state", state)


def test_a_damaged_state_is_ignored(minicpmv, tmp_path):
    state = tmp_path / "state.json"
    state.write_text("{")
    bundle = write_bundle(tmp_path / "bundle")
    assert b"verified before" not in minicpmv("verify", bundle, "--state", state)


def test_checksums_of_all_lengths_are_hashlibs(minicpmv, tmp_path):
    """Files around the 64-byte blocks of SHA-256 and the megabytes in which files are read."""
    rng = random.Random(1)
    bundle = write_bundle(tmp_path / "bundle")
    entries = list(TABLE["manifest"]["files"])
    for size in [*range(130), (1 << 20) - 1, 1 << 20, (1 << 20) + 57, 3_000_001]:
        data = rng.randbytes(size)
        (bundle / f"{size}.bin").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        entries.append({"path": f"{size}.bin", "size": size, "sha256": digest})
    tamper(bundle, {"set": [["files"], entries]})
    assert b"all checksums match" in minicpmv("verify", bundle)


def test_an_exported_bundle_is_accepted(minicpmv, make_bundle):
    bundle = make_bundle()
    files = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert minicpmv("verify", bundle).decode().startswith(f"{len(files)} files, ")
