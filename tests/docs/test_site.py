"""The site builds without a warning and loads nothing from a network."""

import importlib.util
import re
import tomllib

import pytest

from docs import site
from tests.paths import ROOT

CONFIG = tomllib.loads((ROOT / "docs/zensical.toml").read_text(encoding="utf-8"))["project"]
LOADED = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^\s>]+")


def in_navigation(entries):
    for entry in entries:
        for target in entry.values():
            yield from in_navigation(target) if isinstance(target, list) else [target]


def test_every_page_is_in_the_navigation_once():
    listed = list(in_navigation(CONFIG["nav"]))
    assert sorted(listed) == sorted(path.as_posix() for path in site.site_pages().values())


def test_links_lead_to_pages_of_the_site_or_become_text():
    pages = site.site_pages()
    code = "```text\n[a](../Makefile)\n```\n"
    text = "[a](export.md#x) [b](../ios_bridge/README.md) [c](../Makefile) [d](https://e.org)\n"
    expected = "[a](export.md#x) [b](swift.md) c [d](https://e.org)\n"
    assert site.with_site_links(text + code, ROOT / "docs/index.md", pages) == expected + code
    nested = ROOT / "docs/reference/commands.md"
    assert site.with_site_links("[a](../export.md)", nested, pages) == "[a](../export.md)"


@pytest.fixture
def needs_generator():
    for module in ("zensical", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install -e '.[docs]'")


def test_site_builds_strictly_and_loads_nothing_from_elsewhere(needs_generator, tmp_path, capfd):
    assert site.main(["--output", str(tmp_path)]) == 0, capfd.readouterr()
    built = {path.relative_to(tmp_path / "site"): path for path in tmp_path.rglob("site/**/*.html")}
    assert {str(name.with_suffix(".md")) for name in built} >= set(in_navigation(CONFIG["nav"]))
    for name, path in built.items():
        assert LOADED.findall(path.read_text(encoding="utf-8")) == [], name
    reference = built[next(n for n in built if str(n) == "reference/python.html")]
    assert "max_new_tokens" in reference.read_text(encoding="utf-8")


def test_a_dead_link_fails_the_build(needs_generator, tmp_path, monkeypatch, capfd):
    def stage(output):
        staged(output)
        with (output / "pages/index.md").open("a", encoding="utf-8") as page:
            page.write("\n[nowhere](nowhere.md)\n")

    staged = site.stage
    monkeypatch.setattr(site, "stage", stage)
    assert site.main(["--output", str(tmp_path)]) != 0
