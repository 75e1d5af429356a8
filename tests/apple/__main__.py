"""python -m tests.apple [PART …]: the whole suite of coremltools' tests of operations, or parts
of it such as iOS17 or iOS18/test_states.py; prints what became of the cases.

Each file runs in a process of its own. With --json its counts are written as soon as it ends, so
that the hours of the whole suite may be spent in parts."""

import argparse
import importlib.metadata
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.apple.known import known_reason
from tests.apple.plugin import KINDS
from tests.apple.run import run_suite, suite_files
from tests.counts import add_rows

KNOWN = "known"  # differs, with a reason in known.py


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.apple", description=__doc__)
    parser.add_argument("parts", nargs="*", help="folders or files within ops/tests; default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="one case of every Nth function")
    parser.add_argument("--json", type=Path, help="file of counts, to which rows are added")
    options = parser.parse_args()
    if options.json and options.sample:
        parser.error("--json counts whole files; give it without --sample")
    if options.json:
        before = json.loads(options.json.read_text("utf-8")) if options.json.exists() else {}
        add_rows(options.json, {name: before.get(name) for name in suite_files()})
    totals, unexpected = Counter(), 0
    for name in suite_files(options.parts):
        cases = _outcomes(name, options.sample)
        counts, surprises = _judge(cases)
        unexpected += surprises
        totals += counts
        if options.json:
            version = importlib.metadata.version("coremltools")
            row = {kind: counts[kind] for kind in (*KINDS, KNOWN)}
            add_rows(options.json, {name: {**row, "coremltools": version}})
    print(", ".join(f"{totals[kind]:,} {kind}" for kind in (*KINDS, KNOWN)))
    return int(unexpected > 0)


def _outcomes(name, sample):
    """Kind and reason of each case of a file."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "cases.json"
        done = run_suite(report, [name], sample=sample, quiet=False)
        if not report.exists():
            raise SystemExit(f"{name}: pytest ended with {done.returncode} and without a report")
        return json.loads(report.read_text(encoding="utf-8"))


def _judge(cases):
    """How many cases became what, and how many of them should not; those are printed."""
    counts, unexpected = Counter(), 0
    for name, (kind, reason) in sorted(cases.items()):
        known = known_reason(name) if kind in ("wrong", "refused") else None
        counts[KNOWN if known else kind] += 1
        if kind in ("wrong", "refused"):
            unexpected += known is None
            print(f"{kind}: {name}\n    {known or reason}", flush=True)
    return counts, unexpected


if __name__ == "__main__":
    sys.exit(main())
