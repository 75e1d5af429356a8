"""The one exception that users meet."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake that the caller can correct. The text is one sentence: what was given, what is
    allowed, what to do. Command lines print it and exit with 2; every other exception is a bug."""
