"""No page sends its reader to a file, a heading or a name that is not there."""

import importlib
import re

import pytest

from tests.docs.pages import LINKED, PAGES, anchors, inline_code, links, name_of, target_of
from tests.paths import ROOT

EXTEND = ROOT / "docs/extend.md"
# Registries that the table names and the code does not have yet, with their files.
COMING = {
    "RELEASES": "export/releases/__init__.py",
    "SOURCES": "export/checkpoint/__init__.py",
    "METHODS": "export/quant/methods.py",
    "FORMS": "export/quant/weights.py",
}
_ROOMS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir())
_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?")
_ROW = re.compile(r"^\| [^|]+ \| `([A-Z]+)` \| `([^`]+)` \|", re.MULTILINE)


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_relative_links_and_anchors_exist(page):
    dead = []
    for link in links(page):
        if link.startswith("https://"):
            continue
        file, anchor = target_of(page, link)
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(link)
    assert dead == []


def test_anchors_are_as_github_makes_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Is it `the` model?\n\n## How fast\n\n```bash\n# no heading\n```\n## How fast\n"
    )
    assert anchors(page) == {"is-it-the-model", "how-fast", "how-fast-1"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page):
    """Names in capitals are the reader's; .build and out are written by commands."""
    named = [name for code in inline_code(page) for name in _PATH.findall(code)]
    ours = [name for name in named if name.startswith(_ROOMS) and "NAME" not in name]
    written = (".build/", "out/", *COMING.values())
    assert [n for n in ours if not n.startswith(written) and not (ROOT / n).exists()] == []


def registries():
    """(name, file) of each row of the table, a coming one marked: it fails once it is there."""
    coming = pytest.mark.xfail(strict=True, reason="not there yet: then take it out of COMING")
    return [
        pytest.param(name, file, marks=coming if COMING.get(name) == file else ())
        for name, file in _ROW.findall(EXTEND.read_text(encoding="utf-8"))
    ]


def test_there_is_a_registry_for_each_thing_that_varies():
    assert len(registries()) >= 9


@pytest.mark.parametrize(("name", "file"), registries())
def test_registry_is_where_the_table_says(name, file):
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert hasattr(importlib.import_module(module), name)


def test_every_registry_has_a_checklist():
    headings = anchors(EXTEND)
    links_ = [link for link in links(ROOT / "CONTRIBUTING.md") if "extend.md#" in link]
    assert len(links_) >= 9
    assert {link.partition("#")[2] for link in links_} <= headings


def tree_of_readme():
    """Folders in the tree of README.md: one begins a line, its rooms stand indented below it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.partition("## Where things are")[2].partition("```text\n")[2].partition("```")[0]
    folders, top = [], ""
    for line in tree.splitlines():
        if line.startswith("  "):
            folders += [top + room for room in line.split()]
        else:
            top = line.split()[0]
            folders.append(top)
    return folders


def test_the_tree_in_the_readme_is_the_tree():
    shown = tree_of_readme()
    assert [folder for folder in shown if not (ROOT / folder).is_dir()] == []
    tracked = {path.parent for path in ROOT.glob("*/**/*.py")}
    packages = ("export", "mobile_runtime", "validation")
    rooms = {f"{path.parent.name}/{path.name}/" for path in tracked if path.parent.name in packages}
    assert rooms - set(shown) == set()
