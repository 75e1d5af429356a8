"""`python -m mobile_runtime`."""

import sys

from mobile_runtime.cli import main

sys.exit(main())
