"""`minicpmv unpack`: bundles out of the ZIP archives that Python's zipfile and zlib write."""

import hashlib
import random
import zipfile

import pytest

from tests.tampered_bundles import TABLE, tamper, write_bundle

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def zip_bundle(bundle, path, method=DEFLATED, prefix="", level=6, leave_out=()):
    """Zip a bundle's files, folders first as archivers do."""
    with zipfile.ZipFile(path, "w", method, compresslevel=level) as archive:
        for file in sorted(bundle.rglob("*")):
            name = prefix + file.relative_to(bundle).as_posix()
            if name not in leave_out:
                archive.write(file, name)
    return path


def large_bundle(folder, rng):
    """A bundle with files that take Deflate's every kind of block and every distance."""
    bundle = write_bundle(folder)
    words = [rng.randbytes(rng.randint(1, 300)) for _ in range(200)]
    contents = {
        "random.bin": rng.randbytes(300_000),
        "words.bin": b"".join(rng.choices(words, k=6000)),
        "zeros.bin": bytes(1_000_000),
        "far.bin": (block := rng.randbytes(32_768)) + block + block[:40] + block,
        "empty.bin": b"",
        "text.txt": "".join(rng.choices("abcdefg \n", k=200_000)).encode(),
    }
    entries = list(TABLE["manifest"]["files"])
    for name, data in contents.items():
        (bundle / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        entries.append({"path": name, "size": len(data), "sha256": digest})
    tamper(bundle, {"set": [["files"], entries]})
    return bundle


def same_files(left, right):
    """Whether both folders hold the same files."""

    def read(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    return read(left) == read(right)


@pytest.mark.parametrize(
    ("method", "level"), [(STORED, None), *((DEFLATED, level) for level in (0, 1, 6, 9))]
)
def test_archives_of_every_kind_are_unpacked(method, level, minicpmv, tmp_path):
    bundle = large_bundle(tmp_path / "bundle", random.Random(0))
    archive = zip_bundle(bundle, tmp_path / "a.zip", method, level=level)
    output = minicpmv("unpack", archive, tmp_path / "out").decode()
    assert output == f"{len(TABLE['files']) + 6} files unpacked: all checksums match\n"
    assert same_files(bundle, tmp_path / "out")


def test_an_archive_of_one_folder_is_unpacked_without_it(minicpmv, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    archive = zip_bundle(bundle, tmp_path / "a.zip", prefix="my bundle/")
    minicpmv("unpack", archive, tmp_path / "out/inner")
    assert same_files(bundle, tmp_path / "out/inner")


def test_64_bit_archives_are_read(minicpmv, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)  # 64-bit fields wherever they may stand
    bundle = write_bundle(tmp_path / "bundle")
    archive = zip_bundle(bundle, tmp_path / "a.zip")
    assert b"PK\x06\x06" in archive.read_bytes()
    minicpmv("unpack", archive, tmp_path / "out")
    assert same_files(bundle, tmp_path / "out")


def test_an_interrupted_unpacking_goes_on(minicpmv, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    archive = zip_bundle(bundle, tmp_path / "a.zip")
    minicpmv("unpack", archive, tmp_path / "out")
    (tmp_path / "out/embed_tokens.bin").unlink()
    (tmp_path / "out/README.md").write_bytes(b"cut")
    assert minicpmv("unpack", archive, tmp_path / "out").startswith(b"2 files unpacked")
    assert same_files(bundle, tmp_path / "out")


def refusal(minicpmv, *arguments):
    """The sentence with which the command refuses."""
    done = minicpmv(*arguments, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    sentence = done.stderr.decode()
    assert sentence.count("\n") == 1
    return sentence


def test_files_that_the_manifest_does_not_list_are_not_written(minicpmv, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    archive = zip_bundle(bundle, tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("../escaped.txt", "x")
        more.writestr("/absolute.txt", "x")
        more.writestr("unlisted.txt", "x")
    minicpmv("unpack", archive, tmp_path / "out/inner")
    assert same_files(bundle, tmp_path / "out/inner")
    assert not (tmp_path / "out/escaped.txt").exists()


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (".", "is not a file's path"),
        ("", "is not a file's path"),
        ("album/.", "is not a file's path"),
        ("album", "is a folder where a file of the bundle belongs"),
    ],
)
def test_what_was_in_the_folder_before_stays(minicpmv, tmp_path, listed, said):
    bundle = write_bundle(tmp_path / "bundle")
    entries = TABLE["manifest"]["files"]
    entry = entries[0]
    tamper(bundle, {"set": [["files"], [*entries, {**entry, "path": listed}]]})
    archive = zip_bundle(bundle, tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(listed or ".", (bundle / entry["path"]).read_bytes())
    photo = tmp_path / "out/album/photo.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"precious")
    assert said in refusal(minicpmv, "unpack", archive, tmp_path / "out")
    assert photo.read_bytes() == b"precious"


def test_paths_of_the_manifest_that_climb_out_are_refused(minicpmv, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    tamper(bundle, {"set": [["files", 0, "path"], "../escaped.txt"]})
    archive = zip_bundle(bundle, tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("../escaped.txt", "x")
    assert "leaves the bundle" in refusal(minicpmv, "unpack", archive, tmp_path / "out/inner")
    assert not (tmp_path / "out/escaped.txt").exists()


def test_archives_without_what_is_needed_are_refused(minicpmv, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    archive = zip_bundle(bundle, tmp_path / "a.zip", leave_out=("embed_tokens.bin",))
    assert "lacks embed_tokens.bin" in refusal(minicpmv, "unpack", archive, tmp_path / "1")
    archive = zip_bundle(bundle, tmp_path / "b.zip", leave_out=("manifest.json",))
    assert "holds no bundle" in refusal(minicpmv, "unpack", archive, tmp_path / "2")
    assert "cannot be read" in refusal(minicpmv, "unpack", tmp_path / "no.zip", tmp_path / "3")
    (tmp_path / "c.zip").write_bytes(b"not an archive")
    assert "not a ZIP archive" in refusal(minicpmv, "unpack", tmp_path / "c.zip", tmp_path / "4")


def test_sizes_that_contradict_the_manifest_are_refused(minicpmv, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    archive = zip_bundle(bundle, tmp_path / "a.zip", leave_out=("embed_tokens.bin",))
    with zipfile.ZipFile(archive, "a", DEFLATED) as more:
        more.writestr("embed_tokens.bin", bytes(50_000_000))
    assert "has 50000000 bytes, the manifest says 8" in refusal(
        minicpmv, "unpack", archive, tmp_path / "out"
    )


def test_damaged_archives_are_refused_without_a_crash(minicpmv, tmp_path):
    rng = random.Random(1)
    bundle = write_bundle(tmp_path / "bundle")
    good = zip_bundle(bundle, tmp_path / "a.zip").read_bytes()
    refused = 0
    for number in range(60):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        path = tmp_path / f"{number}.zip"
        path.write_bytes(data)
        done = minicpmv("unpack", path, tmp_path / str(number), check=False)
        assert done.returncode in (0, 2), done.stderr.decode()
        refused += done.returncode == 2
        assert done.returncode == 2 or same_files(bundle, tmp_path / str(number))
    assert refused > 20
