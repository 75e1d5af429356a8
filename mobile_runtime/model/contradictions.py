"""What fails because the manifest of a bundle does not fit its graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mobile_runtime.errors import InputError

# What a name that a graph does not have, a row that a table does not have and a shape that does not
# fit raise. Whatever else is raised while a model computes is a fault of this program.
_MISFITS = (KeyError, IndexError, ValueError)


@contextmanager
def contradictions_named() -> Iterator[None]:
    """What a name, row or shape that is not there raises within becomes an `InputError`: a bundle
    is data, and its manifest may promise what its graphs do not hold."""
    try:
        yield
    except InputError:
        raise
    except _MISFITS as error:
        raise InputError(
            f"the bundle's manifest and graphs do not fit each other, or this program has a fault "
            f"({type(error).__name__}: {str(error)[:200]}); export the bundle again, or report it."
        ) from error
