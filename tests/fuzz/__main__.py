"""Damages files of every kind at random and judges what the programs do with them.

    python -m tests.fuzz --minutes 10 --seeds 1 2 3

Everything must be refused in a sentence or work. Anything else is printed as a case of the table
`finds.json`, where `tests/fuzz/test_fuzz.py` does it again for ever.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.counts import add_rows
from tests.fuzz.base import make_base
from tests.fuzz.judge import GOOD, judge
from tests.fuzz.kinds import KINDS, draw

FINDS = Path(__file__).with_name("finds.json")


def main():
    """Run until the time is over; 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=10**9, help="cases of a kind at most")
    parser.add_argument("--base", type=Path, help="folder for what is damaged, kept")
    parser.add_argument("--finds", action="store_true", help="run the cases of finds.json instead")
    parser.add_argument("--json", type=Path, help="file of counts, to which the kinds are added")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-base-") as folder:
        base = (options.base or Path(folder) / "base").resolve()
        _make(base)
        cases = _finds() if options.finds else _drawn(options, base)
        rows = _run(cases, base, time.monotonic() + 60 * options.minutes)
    if options.json:
        add_rows(options.json, {k: {**row, "seeds": options.seeds} for k, row in rows.items()})
    return int(any(set(row["became"]) - set(GOOD) for row in rows.values()))


def _make(base):
    """In a process of its own: afterwards this one has no threads, and may fork."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            make_base(base)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the files to damage could not be made")


def _finds():
    for find in json.loads(FINDS.read_text(encoding="utf-8")):
        yield find["kind"], find["case"]


def _drawn(options, base):
    for number in range(options.rounds):
        for seed in options.seeds:
            for kind in options.kinds:
                yield kind, draw(kind, f"{seed} {number}", base)


def _run(cases, base, deadline):
    """Judge each case, print what is found; by kind, how many became what, and what it took."""
    rows = {kind: {"became": Counter(), "seconds": 0.0, "megabytes": 0} for kind in KINDS}
    for kind, case in cases:
        if time.monotonic() > deadline:
            break
        verdict, row = judge(kind, case, base), rows[kind]
        row["became"][verdict.name] += 1
        row["seconds"] = max(row["seconds"], round(verdict.seconds, 2))
        row["megabytes"] = max(row["megabytes"], verdict.megabytes)
        if verdict.name not in GOOD:
            print(json.dumps({"kind": kind, "was": verdict.name, "case": case}), flush=True)
            print(verdict.stderr, file=sys.stderr, flush=True)
    rows = {kind: row for kind, row in rows.items() if row["became"]}
    for kind, row in rows.items():
        seen = ", ".join(f"{name} {n}" for name, n in sorted(row["became"].items()))
        print(f"{kind}: {seen}; at most {row['seconds']:.1f} s, {row['megabytes']} MB")
    return rows


if __name__ == "__main__":
    sys.exit(main())
