"""python -m tests.apple [PART …]: the whole suite of coremltools' tests of operations, or parts
of it such as iOS17 or iOS18/test_states.py; prints what became of the cases."""

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.apple.known import known_reason
from tests.apple.plugin import KINDS
from tests.apple.run import run_suite


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.apple", description=__doc__)
    parser.add_argument("parts", nargs="*", help="folders or files within ops/tests; default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="one case of every Nth function")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "cases.json"
        run_suite(report, options.parts, sample=options.sample, quiet=False)
        cases = json.loads(report.read_text(encoding="utf-8"))
    unexpected = 0
    for name, (kind, reason) in sorted(cases.items()):
        if kind in ("wrong", "refused"):
            known = known_reason(name)
            unexpected += known is None
            print(f"{kind}: {name}\n    {known or reason}")
    counts = Counter(kind for kind, _ in cases.values())
    print(", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS))
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
