"""No page sends its reader to a file, a heading or a name that is not there."""

import importlib
import re

import pytest

from tests.docs.pages import LINKED, PAGES, anchors, inline_code, links, name_of, target_of
from tests.paths import ROOT

EXTEND = ROOT / "docs/extend.md"
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
    written = (".build/", "out/")
    assert [n for n in ours if not n.startswith(written) and not (ROOT / n).exists()] == []


def registries():
    """(name, file) of each row of the table."""
    return _ROW.findall(EXTEND.read_text(encoding="utf-8"))


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
    packages = ("export", "mobile_runtime", "validation")
    modules = (path for package in packages for path in (ROOT / package).glob("*/*.py"))
    rooms = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in modules}
    assert rooms and rooms - set(shown) == set()
