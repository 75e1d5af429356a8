"""What a stranger learns from the README's first screen."""

import tomllib

from benchmarks.readme import readme_sections
from tests.paths import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = TEXT.splitlines()
FIRST_SCREEN = "\n".join(LINES[:60])


def test_first_screen_says_what_it_is_how_to_start_and_how_it_gets_on_an_iphone():
    for part in ("Core ML packages", "onnxruntime", "make demo", "make test", "import MiniCPMV"):
        assert part in FIRST_SCREEN
    assert "ios_bridge/README.md" in FIRST_SCREEN
    assert "has not run on a phone or a Mac yet" in FIRST_SCREEN


def test_swift_is_that_of_the_package():
    snippet = TEXT.partition("```swift\n")[2].partition("```")[0]
    assert len(snippet.splitlines()) <= 8
    package = (ROOT / "ios_bridge/README.md").read_text(encoding="utf-8")
    calls = ("try await MiniCPMV.load(bundle: folder)", "try model.chat()")
    for call in (*calls, 'session.stream("What is this?", images: ['):
        assert call in snippet
        assert call in package


def test_readme_shows_three_bundles_and_seven_speeds():
    rows = {name: len(table.splitlines()) - 2 for name, table in readme_sections().items()}
    assert rows == {"fidelity": 3, "speed": 7}


def test_nothing_is_installed_from_an_index_by_a_name_that_is_not_ours():
    name = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    assert [p.name for p in pages if f"install {name}" in p.read_text(encoding="utf-8")] == []
    assert [p.name for p in pages if f"{name}[" in p.read_text(encoding="utf-8")] == []


def test_each_program_is_a_console_script():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {
        "minicpmv-export": "export.__main__:main",
        "minicpmv-run": "mobile_runtime.cli:main",
        "minicpmv-validate": "validation.cli:main",
    }
