import random
from dataclasses import replace

import pytest

from mobile_runtime.bundle import read_manifest, verify_files, write_manifest
from mobile_runtime.errors import InputError
from tests.tampered_bundles import CASES, tamper, write_bundle


def test_the_intact_bundle_is_accepted(tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    verify_files(bundle, read_manifest(bundle))


@pytest.mark.parametrize("name", CASES)
def test_a_tampered_bundle_is_refused_with_one_sentence(name, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    tamper(bundle, CASES[name]["edit"])
    with pytest.raises(InputError) as caught:
        verify_files(bundle, read_manifest(bundle))
    assert CASES[name]["text"] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_flipped_bit_of_a_manifest_is_accepted(tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    path = bundle / "manifest.json"
    data, rng = path.read_bytes(), random.Random(0)
    for _ in range(1500):
        place = rng.randrange(8 * len(data))
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError) as caught:
            read_manifest(bundle)
        assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_a_file_that_is_listed_twice_is_refused_before_it_is_hashed_again(tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    manifest = read_manifest(bundle)
    for count in (2, 1000):
        write_manifest(bundle, replace(manifest, files=manifest.files[:1] * count + manifest.files))
        with pytest.raises(InputError, match=r"lists '.*' twice"):
            read_manifest(bundle)


def test_each_graph_of_many_is_found_among_the_files(tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    manifest = read_manifest(bundle)
    more = tuple(replace(manifest.files[0], path=f"{n}/{n}") for n in range(300))
    graphs = tuple(replace(manifest.graphs[0], path=str(n)) for n in range(300))
    write_manifest(bundle, replace(manifest, files=manifest.files + more, graphs=graphs))
    assert len(read_manifest(bundle).graphs) == 300
    for absent in ("3/0", "30/3", "301", "3/3/3", "/3", "29 9"):
        wrong = replace(manifest.graphs[0], path=absent)
        write_manifest(bundle, replace(manifest, files=more, graphs=(*graphs, wrong)))
        with pytest.raises(InputError, match=r"without listing it|leaves the bundle"):
            read_manifest(bundle)


def test_a_manifest_of_a_film_s_size_is_not_read(tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    with (bundle / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="has 1,099,511,627,776 bytes, more than"):
        read_manifest(bundle)
