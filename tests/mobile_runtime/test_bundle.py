import random

import pytest

from mobile_runtime.bundle import read_manifest, verify_files
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
