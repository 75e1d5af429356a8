"""The tables of long runs say what was not run, and hide nothing that went wrong."""

from benchmarks.outcomes import apple_table, damage_table

APPLE = {"passed": 97, "refused": 1, "wrong": 1, "skipped": 5, "known": 1, "coremltools": "9"}


def test_counts_of_an_opset_add_up_and_files_that_did_not_run_are_named():
    rows = {"iOS15/a.py": APPLE, "iOS15/b.py": APPLE, "iOS16/a.py": None}
    lines = apple_table(rows).splitlines()
    assert lines[2] == "| iOS15 | 210 | 194 | 2 | 2 | 2 | 10 |  |"
    assert lines[3] == "| iOS16 | 0 | 0 | 0 | 0 | 0 | 0 | `a.py` |"
    assert lines[4] == "| **all** | 210 | 194 | 2 | 2 | 2 | 10 | 1 of 3 files |"
    assert lines[-1] == "coremltools 9; refused: 1.00 % of those not skipped."


def test_what_is_neither_refused_nor_right_has_its_name_in_the_table():
    row = {"seconds": 1.25, "megabytes": 7, "seeds": [1, 2]}
    became = {"refused": 1490, "ok": 6, "accepted": 3, "crash": 1}
    table = damage_table({"bits": {**row, "became": became}})
    assert "| bits | 1,500 | 1,490 | 6 | accepted 3, crash 1 | 1.2 | 7 | 1, 2 |" in table
    assert table.endswith("Processes killed at random moments: not run.")


def test_kills_are_counted_below_the_damaged_files():
    names = ("killed", "workers seen", "orphans", "finished", "other results")
    table = damage_table({"kills": dict(zip(names, (40, 30, 1, 14, 0), strict=True))})
    assert table.endswith("killed 40, workers seen 30, orphans 1, finished 14, other results 0.")
