"""Options of `python -m examples.pocket.train`."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from examples.pocket.architecture import build_model
from examples.pocket.curriculum import CURRICULA, PAGES, STAGES, Stage
from examples.pocket.objective import Probes
from examples.pocket.optimizers import Optimizers
from examples.pocket.state import STATE_FILE, check_state, check_weights
from mobile_runtime.errors import InputError
from validation.questions.fonts import FACES, load_face
from validation.questions.handwritten import COLLECTIONS, Collection
from validation.questions.tasks import TASKS


@dataclass(frozen=True)
class Options:
    """One run."""

    output: Path
    minutes: float
    workers: int
    seed: int
    resume: bool
    weights: Path | None  # a checkpoint to begin with
    stage: str  # the first
    collections: tuple[Collection, ...]
    tasks: tuple[str, ...]
    device: str  # "cpu" or "cuda"
    port: int

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU learns, and the workers draw for it."""
        return self.device == "cuda"

    @property
    def checkpoint(self) -> Path:
        """The folder of the checkpoint that the run writes."""
        return self.output / "checkpoint"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run."""
        return CURRICULA[self.device]


def parse_options(arguments: Sequence[str] | None, description: str | None) -> Options:
    """Parse the options of a run; an unknown flag exits with 2. `description` is for --help."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.pocket.train", description=description
    )
    parser.add_argument("--output", type=Path, default=Path("out/pocket"))
    parser.add_argument("--minutes", type=float, default=120, help="of training, all runs together")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that learn, or draw for the GPU",
    )
    parser.add_argument("--device", choices=tuple(CURRICULA), default="cpu", help="what learns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="CHECKPOINT",
        help="begin with these, e.g. export/pocket, not with fresh ones",
    )
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stage", choices=names, default=names[0], help="to begin with")
    parser.add_argument(
        "--collections",
        nargs="+",
        choices=COLLECTIONS,
        default=COLLECTIONS,
        help="handwritten digits to train on",
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=tuple(TASKS))
    given = vars(parser.parse_args(arguments))
    with socket.socket() as probe:  # a free port for the workers to meet at
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lists = {name: tuple(given[name]) for name in ("collections", "tasks")}
    return Options(**given | lists, port=port)


def check_options(options: Options) -> None:
    """Raises `InputError` for a run that is not possible, before anything is written."""
    if options.minutes <= 0 or options.workers < 1:
        raise InputError("--minutes and --workers must be above zero.")
    if not set(options.tasks) & set(PAGES.values()):
        raise InputError(
            f"--tasks must have one of {', '.join(PAGES.values())}: a run begins with their pages."
        )
    if options.on_gpu and not torch.cuda.is_available():
        raise InputError("--device cuda needs a GPU that PyTorch can use; --device cpu needs none.")
    for face in range(len(FACES)):  # workers draw with them
        load_face(face, 16)
    names = [stage.name for stage in options.stages]
    if options.stage not in names:
        raise InputError(
            f"--stage {options.stage} is none of --device {options.device}; "
            f"give one of {', '.join(names)}."
        )
    (_check_resumed if options.resume else _check_new)(options)


def _check_resumed(options: Options) -> None:
    if not (options.output / STATE_FILE).is_file():
        raise InputError(f"{options.output} holds no run to resume; start without --resume.")
    if options.weights is not None or options.stage != STAGES[0].name:
        raise InputError(
            f"--resume goes on with the run in {options.output} where it stopped; "
            "leave --weights and --stage out."
        )
    model = build_model(options.seed)
    named = Optimizers({"model": model, "probes": Probes(model)}).named
    check_state(options.output, named, options.device)


def _check_new(options: Options) -> None:
    if (options.output / STATE_FILE).is_file():
        raise InputError(
            f"{options.output} holds a run already; add --resume, or give another --output."
        )
    if options.weights is not None:
        check_weights(options.weights)
    elif options.stage != STAGES[0].name:
        raise InputError(
            f"--stage {options.stage} goes on from what earlier stages taught; give --weights too."
        )
