"""`python -m validation`."""

import sys

try:
    from validation.cli import main
except ModuleNotFoundError as missing:
    remedy = "run pip install 'minicpmv-mobile[export,coreml,validation]'"
    print(f"error: {missing.name} is not installed; {remedy}.", file=sys.stderr)
    sys.exit(2)

sys.exit(main())
