"""References and tables are what the code and the measurements say now."""

import pytest

from benchmarks.readme import replace_section, written_pages
from docs import generate
from docs.parsers import PROGRAMS, commands_of, parser_of
from export.config import ExportConfig
from tests.paths import ROOT
from tests.processes import run_python


@pytest.fixture(scope="module")
def generated():
    """Pages of the reference by name, made now."""
    return {path.name: text for path, text in generate.generated_pages().items()}


@pytest.mark.parametrize("name", ["commands.md", "python.md", "rules.md", "devices.md"])
def test_reference_is_what_the_code_says(name, generated):
    written = (generate.FOLDER / name).read_text(encoding="utf-8")
    assert written == generated[name], "run python -m docs.generate"


@pytest.mark.parametrize("name", ["README.md", "docs/benchmarks.md"])
def test_tables_are_what_was_measured(name):
    text = written_pages()[ROOT / name]
    assert (ROOT / name).read_text(encoding="utf-8") == text, "run python -m benchmarks.readme"


def test_every_command_and_option_is_in_the_reference(generated):
    page = generated["commands.md"]
    for program in PROGRAMS:
        assert commands_of(program)
        for command in commands_of(program):
            section = page.partition(f"\n## {program} {command}\n")[2].partition("\n## ")[0]
            options = [
                name for a in parser_of(program, command)._actions for name in a.option_strings
            ]
            missing = [o for o in options if f"`{o}" not in section and o not in ("-h", "--help")]
            assert missing == [], f"{program} {command}"


def test_reference_names_no_folder_of_this_machine(generated):
    for page in generated.values():
        assert str(ROOT) not in page
        assert str(ExportConfig().cache) not in page


def test_check_finds_a_page_that_is_out_of_date(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "generated_pages", lambda: {tmp_path / "page.md": "new\n"})
    assert generate.main(["--check"]) == 1
    assert "page.md is out of date" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert (tmp_path / "page.md").read_text() == "new\n"
    assert generate.main(["--check"]) == 0


def test_a_page_without_a_table_s_place_is_an_error():
    assert replace_section("<!-- a -->\nold\n<!-- /a -->", "a", "new") == (
        "<!-- a -->\nnew\n<!-- /a -->"
    )
    with pytest.raises(SystemExit, match="0 sections b"):
        replace_section("text", "b", "new")


@pytest.mark.parametrize("package", ["mobile_runtime", "export", "validation"])
def test_every_public_name_is_there_and_importing_the_package_loads_nothing(package):
    code = (
        f"import sys, {package} as p\n"
        "print([name for name in ('numpy', 'torch', 'numba', 'PIL') if name in sys.modules])\n"
        "print(all(getattr(p, name) is not None for name in p.__all__), hasattr(p, 'Nothing'))"
    )
    done = run_python("-c", code, timeout=60)
    assert done.stdout.splitlines() == ["[]", "True False"], done.stderr
