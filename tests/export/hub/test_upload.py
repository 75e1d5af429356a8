"""A bundle on the hub and back: the real client against a hub on loopback."""

import io
import json
import re
import shutil
from dataclasses import dataclass, replace

import huggingface_hub
import pytest

from export.cli import main as export
from mobile_runtime.bundle import read_manifest, write_manifest
from mobile_runtime.cli import main as run
from mobile_runtime.errors import InputError
from mobile_runtime.model.hub import bundle_folder, bundle_name
from mobile_runtime.session import GREEDY, Session
from tests.export.checkpoint.hub_server import running
from tests.export.hub.writable_hub import WritableHub, WritingHandler
from tests.processes import run_python
from validation.cli import main as validate

REPOSITORY = "me/tiny-mobile"
MESSAGES = [{"role": "user", "content": "Is it?"}]
SHORT = replace(GREEDY, max_new_tokens=8)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that this process's client knows, with a cache of its own."""
    with running(WritableHub(REPOSITORY), WritingHandler) as found:
        template = found.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": found.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield found


@dataclass(frozen=True)
class Done:
    """What a command gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(hub, capfd):
    """command(main, *words) -> what the command line gave."""

    def run(main, *words):
        capfd.readouterr()
        return Done(main([str(word) for word in words]), *capfd.readouterr())

    return run


@pytest.fixture
def upload(command):
    """upload(bundle, *options) -> what the command gave, the licence accepted."""

    def run(bundle, *options):
        return command(export, "upload", bundle, "--repo", REPOSITORY, "--accept-licence", *options)

    return run


def ask(place):
    return "".join(Session.load(place).chat(MESSAGES, SHORT))


@pytest.fixture(scope="session")
def bundle(make_onnx_bundle):
    return make_onnx_bundle()


def address_of(done):
    assert done.code == 0, done.err
    return done.out.splitlines()[-1]


def sentence(done):
    assert done.code == 2 and "Traceback" not in done.err, done.err
    (line,) = (line for line in done.err.splitlines() if line.startswith("error: "))
    return line


def listed(bundle):
    return {entry.path for entry in read_manifest(bundle).files} | {"manifest.json"}


def test_a_bundle_comes_back_as_it_was(bundle, hub, upload, tmp_path):
    address = address_of(upload(bundle))
    commit = address.removeprefix(f"hf://{REPOSITORY}@")
    assert hub.commits[commit].keys() == {*listed(bundle), ".gitattributes"}
    answer = ask(address)
    assert answer and answer == ask(bundle)
    (snapshot,) = (tmp_path / "hub").rglob(f"snapshots/{commit}")
    assert all((snapshot / n).read_bytes() == (bundle / n).read_bytes() for n in listed(bundle))
    # Later commits change nothing for who names one, and nothing is fetched twice.
    hub.commit("main", {})
    hub.log.clear()
    assert ask(address) == answer and not hub.log


def test_the_cache_answers_without_a_network(bundle, hub, upload, tmp_path):
    address = address_of(upload(bundle))
    ask(address)
    hub.log.clear()
    for others in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        place = {"HF_HUB_CACHE": str(tmp_path / "hub"), **others}
        done = run_python("-m", "mobile_runtime", "info", address, **place)
        assert done.returncode == 0 and not hub.log, done.stderr


def test_the_card_tells_the_hub_licence_and_format(bundle, hub, upload):
    address_of(upload(bundle))
    before, start, card = hub.card.partition("---\n")
    fields = dict(line.split(": ", 1) for line in card.partition("---\n")[0].splitlines())
    assert not before and start
    assert json.loads(fields["license"]) == "other"
    assert json.loads(fields["license_name"]) == read_manifest(bundle).source.license
    assert json.loads(fields["tags"])[:2] == [read_manifest(bundle).format, "int4-fast"]


def test_an_upload_that_was_stopped_goes_on(bundle, hub, upload):
    hub.refuse_after = 1
    assert "storage is out of reach" in sentence(upload(bundle))
    assert hub.at("main")[1].keys() == {".gitattributes"}  # nothing half there
    first, hub.refuse_after = set(hub.puts), None
    address_of(upload(bundle))
    assert first and len(hub.puts) == len(set(hub.puts)) > len(first)
    commits = len(hub.commits)
    assert address_of(upload(bundle)).endswith(hub.branches["main"])
    assert len(hub.commits) == commits  # the same bytes make no new one


def test_what_an_older_bundle_listed_goes_and_other_files_stay(bundle, hub, upload, tmp_path):
    hub.make(private=False)
    older = {"manifest.json": b"{}", "notes.md": b"mine"}
    hub.commit("main", older)
    address_of(upload(bundle))  # that was no bundle's manifest
    assert "notes.md" in hub.at("main")[1]
    smaller = tmp_path / "smaller"
    shutil.copytree(bundle, smaller)
    manifest = read_manifest(smaller)
    kept = tuple(entry for entry in manifest.files if entry.path != "README.md")
    object.__setattr__(manifest, "files", kept)
    write_manifest(smaller, manifest)
    address_of(upload(smaller))
    assert hub.at("main")[1].keys() == {*listed(bundle), "notes.md"} - {"README.md"}


def test_a_branch_and_a_private_repository_are_made(bundle, hub, upload):
    address_of(upload(bundle, "--revision", "try/1", "--private"))
    assert hub.private and "manifest.json" in hub.at("try/1")[1]
    assert hub.at("main")[1].keys() == {".gitattributes"}
    hub.private = False
    assert "is there already and public" in sentence(upload(bundle, "--private"))


def test_what_may_not_or_cannot_be_uploaded_is_refused(
    bundle, hub, command, upload, tmp_path, monkeypatch
):
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    card = damaged / "README.md"
    card.write_bytes(card.read_bytes()[::-1])
    assert "README.md does not match its checksum" in sentence(upload(damaged))
    assert "no-owner is no repository" in sentence(upload(bundle, "--repo", "no-owner"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # no terminal
    said = sentence(command(export, "upload", bundle, "--repo", REPOSITORY))
    assert read_manifest(bundle).source.license[:20] in said and "--accept-licence" in said
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in sentence(upload(bundle))
    assert not hub.exists


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("\n", 2), ("", 2)])
def test_the_licence_is_asked_about(bundle, hub, command, monkeypatch, typed, code):
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    done = command(export, "upload", bundle, "--repo", REPOSITORY)
    assert done.code == code and "May you pass its weights on" in done.out
    assert hub.exists == (code == 0)


@pytest.mark.parametrize("kind", ["large", "manifest"])
def test_other_bytes_than_were_uploaded_are_refused_and_fetched_again(bundle, hub, upload, kind):
    address = address_of(upload(bundle))
    name, said = "manifest.json", "was changed after it was written"
    if kind == "large":
        name = next(entry.path for entry in read_manifest(bundle).files if "data" in entry.path)
        said = f"{name} of {address} does not match its checksum"
    hub.spoilt = {name}
    with pytest.raises(InputError, match=re.escape(said)):
        bundle_folder(address)
    hub.spoilt = set()
    assert (bundle_folder(address) / name).read_bytes() == (bundle / name).read_bytes()


def test_commands_take_an_address_and_name_the_commit(bundle, hub, upload, command):
    commit = address_of(upload(bundle)).rpartition("@")[2]
    place = f"hf://{REPOSITORY}@main"
    done = command(run, "info", place)
    assert done.code == 0 and "all checksums match" in done.out, done.err
    assert f"hf://{REPOSITORY}@{commit} is always this one" in done.err
    for words in (["cache-scales", place], ["parity", place]):
        said = sentence(command(validate, *words))
        assert f"{REPOSITORY}@{commit[:8]} lies in the hub's cache" in said
    assert bundle_name(bundle_folder(place)) == f"{REPOSITORY}@{commit[:8]}"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("hf://alone", "hf://alone is no address of a bundle"),
        (f"hf://{REPOSITORY}@nothing", "could not be fetched from the hub"),
        (f"hf://{REPOSITORY}", "is not a bundle: it has no manifest.json"),
    ],
)
def test_what_is_no_bundle_on_the_hub_is_refused(place, said, hub, command):
    hub.make(private=False)
    assert said in sentence(command(run, "info", place))


def test_a_snapshot_without_a_file_is_completed(bundle, hub, upload):
    address = address_of(upload(bundle))
    card = bundle_folder(address) / "README.md"
    card.unlink()
    assert (bundle_folder(address) / "README.md").is_file()
