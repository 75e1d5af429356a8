"""What all command lines share: exit codes, and output that no terminal stops."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from mobile_runtime.errors import InputError

INTERRUPTED = 130
_PIPE_CLOSED = 141  # as a shell says of a program that wrote to a closed pipe


def run_command(run: Callable[[], int], interrupted: str = "\ninterrupted") -> int:
    """Return what `run` returns, or 2 after a mistake that the user can correct, 130 after Ctrl-C,
    141 when nobody reads the output any more. Letters that the terminal's encoding lacks become
    question marks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = run()
        if sys.stdout is not None:  # closed by the shell
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _write_nowhere()
        return _PIPE_CLOSED
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(
            f"error: there is not enough memory for this ({str(error)[:200] or 'MemoryError'}); "
            "close other programs, or give smaller inputs.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED


def _write_nowhere() -> None:
    """Let what is still buffered go nowhere when Python ends."""
    with suppress(OSError, ValueError, AttributeError):  # of a stream that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
