"""The benchmark of schemas, on a tiny bundle, and the table of its figures."""

import json

from benchmarks.readme import schemas_table
from benchmarks.schemas import main


def test_answers_are_judged_and_costs_told(make_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.schemas._MORE", 200)
    path, bundle = tmp_path / "schemas.json", make_bundle("none", "state", 512)
    tokenizer = bundle / "tokenizer" / "tokenizer.json"
    asked = [str(bundle), "--schemas", "1", "--tokenizer", str(tokenizer), "--json", str(path)]
    assert main(asked) == 0
    report = json.loads(path.read_text())
    assert report["fit"]["valid"] == report["fit"]["answers"] == 2
    assert [cost["way"] for cost in report["costs"]] == ["best", "drawn"] * 2
    table = schemas_table(report).splitlines()
    assert table[2].startswith("| 1 | 2 | 2 | 2 |") and len(table) == 10
