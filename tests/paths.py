"""Where tests find the repository's files, golden data and, where they lie, the published files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests/golden"
PICTURES = ROOT / "examples/pictures"
SHARED = ROOT / "../shared"
UPSTREAM = SHARED / "upstream"
