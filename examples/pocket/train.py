"""`python -m examples.pocket.train`: train the pocket model from random weights on generated
pictures.

Every core runs a copy of the model on examples of its own, and gradients are averaged each step; or
a GPU runs it on examples that every core draws. The run can be stopped at any time and resumed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

import torch.distributed as dist
from tokenizers import Tokenizer
from torch.multiprocessing.spawn import spawn

from examples.pocket.floors import FLOOR_MINUTES, print_floors
from examples.pocket.journal import LOSSES_FILE, Journal
from examples.pocket.options import Options, check_options, parse_options
from examples.pocket.plot import plot_losses
from examples.pocket.state import prepare_checkpoint
from examples.pocket.tokenizer import build_tokenizer, words_of_the_tasks
from examples.pocket.worker import Worker
from mobile_runtime.errors import InputError

_SAVE_SECONDS = 300
_BUILD_QUESTIONS = 150  # per task, from which the tokenizer learns its words


def run_worker(rank: int, options: Options, copies: int) -> None:
    """Train until the time is up; rank 0 keeps the journal and saves."""
    if copies > 1:
        address = f"tcp://127.0.0.1:{options.port}"
        dist.init_process_group("gloo", address, rank=rank, world_size=copies)
    worker = Worker(rank, options)
    journal = Journal(options, worker.step) if rank == 0 else None
    saved, parent = worker.seconds, os.getppid()
    with journal.progress if journal else nullcontext():
        while worker.share < 1:
            if os.getppid() != parent:  # killed: nobody is left to stop this process
                return
            losses = worker.train_step()
            if journal is None:
                continue
            journal.note(worker, losses)
            if worker.seconds - saved > _SAVE_SECONDS:
                worker.save()
                saved = worker.seconds
    if journal is not None:
        worker.save()
        plot_losses(options.output / LOSSES_FILE, options.output / "losses.png")
    worker.learning.close()
    if copies > 1:
        dist.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; return 0, or 2 for a user's mistake."""
    options = parse_options(arguments, __doc__)
    copies = 1 if options.on_gpu else options.workers
    try:
        check_options(options)
        if not options.resume:
            prepare_checkpoint(options.checkpoint, _tokenizer(options))
        spawn(run_worker, (options, copies), copies)  # type: ignore[no-untyped-call]
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; --resume goes on from the last save", file=sys.stderr)
        return 130
    if options.minutes >= FLOOR_MINUTES:
        print_floors(options.checkpoint, options.tasks, options.workers)
    print(options.checkpoint)
    return 0


def _tokenizer(options: Options) -> Tokenizer:
    if options.weights is not None:
        return Tokenizer.from_file(str(options.weights / "tokenizer.json"))
    return build_tokenizer(words_of_the_tasks(options.seed, _BUILD_QUESTIONS))


if __name__ == "__main__":
    sys.exit(main())
