"""An open bundle notices what happens to its files: none is computed with after it has changed."""

import os
import shutil
from dataclasses import replace

import pytest

from mobile_runtime import session as session_module
from mobile_runtime.errors import InputError
from mobile_runtime.model import mapped_files
from mobile_runtime.session import GREEDY, Session

SHORT = replace(GREEDY, max_new_tokens=3)
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def bundle(request, make_bundle, make_onnx_bundle, tmp_path):
    """For Core ML, or of another format if a test says so."""
    onnx = getattr(request, "param", "coreml") == "onnx"
    made = make_onnx_bundle() if onnx else make_bundle("int4-fast")
    return shutil.copytree(made, tmp_path / "bundle", copy_function=shutil.copyfile)


def largest(bundle, *words):
    found = [p for p in bundle.rglob("*") if p.is_file() and all(w in str(p) for w in words)]
    return max(found, key=lambda path: path.stat().st_size)


def overwrite(path):
    """In place, with the time put back, as what hides its traces does."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(64))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path):
    os.truncate(path, 100)


def renamed(path):
    path.with_name("other").write_bytes(bytes(path.stat().st_size))
    path.with_name("other").replace(path)


CHANGES = {change.__name__: change for change in (overwrite, cut, renamed, os.unlink)}


@pytest.mark.parametrize(
    ("bundle", "part", "change"),
    [
        *(("coreml", "embed_tokens", change) for change in CHANGES),
        ("coreml", "decoder", "overwrite"),
        ("onnx", "embed_tokens", "renamed"),
        ("onnx", "decoder", "cut"),
    ],
    indirect=["bundle"],
)
def test_a_file_that_changed_is_not_computed_with(bundle, part, change):
    """A part that was read already, and one that is opened only now: both are as verified, or
    refused. A cut file that is read would end this process."""
    session = Session.load(bundle)
    if part == "embed_tokens":
        session.prefill(session.prepare(HI))
    CHANGES[change](largest(bundle, part))
    with pytest.raises(InputError, match="was changed while the bundle was open"):
        list(session.chat(HI, SHORT))
    with pytest.raises(InputError, match="load the bundle again"):
        session.fork().decode(5)


@pytest.mark.parametrize("bundle", ["coreml", "onnx"], indirect=True)
def test_a_file_that_is_cut_within_an_answer_ends_it_in_a_sentence(bundle):
    session = Session.load(bundle)
    stream = iter(session.chat(HI, SHORT))
    next(stream)
    cut(largest(bundle, "decoder"))
    with pytest.raises(InputError, match="was changed while"):
        list(stream)


def test_no_result_leaves_that_was_computed_while_a_file_changed(bundle, monkeypatch):
    session = Session.load(bundle)
    prefill = session._prefill

    def change_within(prompt, statistics):
        overwrite(largest(bundle, "embed_tokens"))
        return prefill(prompt, statistics)

    monkeypatch.setattr(session, "_prefill", change_within)
    with pytest.raises(InputError, match="was changed while"):
        session.prefill(session.prepare(HI))


def test_a_change_right_after_the_verification_is_noticed(bundle, monkeypatch):
    verify = session_module.verify_files

    def verify_and_change(*given):
        verify(*given)
        overwrite(largest(bundle, "decoder"))

    monkeypatch.setattr(session_module, "verify_files", verify_and_change)
    with pytest.raises(InputError, match="was changed while"):
        list(Session.load(bundle).chat(HI, SHORT))


def touched(path):
    os.utime(path)


def linked(path):
    """As another export does that takes the same part out of the cache."""
    os.link(path, path.with_name("link"))


def rewritten(path):
    path.with_name("other").write_bytes(path.read_bytes())
    path.with_name("other").replace(path)


@pytest.mark.parametrize("use", [touched, linked, rewritten])
def test_the_same_bytes_are_verified_again_once_and_computed_with(bundle, use, monkeypatch):
    session = Session.load(bundle)
    before = list(session.chat(HI, SHORT))
    use(largest(bundle, "decoder"))
    read, digest = [], mapped_files.file_sha256
    monkeypatch.setattr(mapped_files, "file_sha256", lambda path: read.append(path) or digest(path))
    assert list(session.chat(HI, SHORT)) == before
    assert read == [largest(bundle, "decoder")]


def test_what_is_not_mapped_may_change(bundle):
    session = Session.load(bundle)
    (bundle / "README.md").write_text("A note.", encoding="utf-8")
    (bundle / "report.json").write_text("{}", encoding="utf-8")
    assert list(session.chat(HI, SHORT))
