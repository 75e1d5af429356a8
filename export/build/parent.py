"""What a worker process owes to the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time


def exit_with_parent() -> None:
    """In a worker process: leave Ctrl-C to the parent, and exit when the parent exits, even if it
    is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started_by = multiprocessing.parent_process()
    assert started_by is not None, "runs in worker processes only"
    parent = started_by.pid  # os.getppid() would be another one if the parent has exited already

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
