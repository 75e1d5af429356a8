"""`python -m export`."""

import sys


def main() -> int:
    """Run the command line and return its exit status: 2 also if a library is not installed."""
    try:
        from export.cli import main as run
    except ModuleNotFoundError as missing:
        remedy = "run pip install -e '.[export,coreml]'"
        print(f"error: {missing.name} is not installed; {remedy}.", file=sys.stderr)
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
