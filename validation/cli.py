"""`python -m validation parity|trace|perplexity|calibrate|providers|answers|device-report`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as ProgressBar

from mobile_runtime.bundle import read_manifest
from mobile_runtime.engines import EngineOptions, engine_names
from mobile_runtime.errors import InputError
from mobile_runtime.session import Session
from validation.answers.answers import ITEMS, ROWS, Candidate, candidate_name, score_candidates
from validation.chats import NamedChat, default_chats, read_chat
from validation.device_report import read_device_report, read_floors
from validation.parity.golden import write_golden
from validation.parity.parity import ParityOptions, run_parity
from validation.parity.trace import trace_bundle, trace_checkpoint, write_arrays
from validation.perplexity import measure_bundles, print_losses, write_losses
from validation.sources import check_source, open_checkpoint, source_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 when a stage fails, 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m validation", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parity = commands.add_parser("parity", help="compare a saved bundle with PyTorch by stages")
    parity.add_argument("bundle", type=Path)
    parity.add_argument(
        "--checkpoint", help="folder or hub id it was made from (not needed for the pocket model)"
    )
    parity.add_argument("--messages", type=Path, action="append", help="chat file; may be repeated")
    parity.add_argument(
        "--stages",
        nargs="+",
        help="run these alone, by the names of stages or packages, and load no more than they need",
    )
    parity.add_argument("--max-new-tokens", type=int, default=8)
    parity.add_argument("--output", type=Path, help="default: report.json in the bundle")
    parity.add_argument("--write-golden", action="store_true", help="store vectors for the device")
    parity.set_defaults(run=_parity)
    trace = commands.add_parser("trace", help="write what PyTorch or a bundle computes for a chat")
    source = trace.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="run fp32 PyTorch with this folder or hub id")
    source.add_argument("--bundle", type=Path, help="run this bundle")
    trace.add_argument("--messages", type=Path, required=True, help="chat file")
    trace.add_argument("--output", type=Path, required=True, help="npz file to write")
    trace.add_argument("--max-new-tokens", type=int, default=16)
    trace.set_defaults(run=_trace)
    losses = commands.add_parser("perplexity", help="of a text, under bundles and PyTorch")
    losses.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    losses.add_argument("--text", type=Path, required=True, help="UTF-8 file")
    losses.add_argument("--tokens", type=int, default=2048, help="of the text that are read")
    losses.add_argument("--checkpoint", help="also under PyTorch with this folder or hub id")
    losses.add_argument("--json", type=Path, help="also write the figures to this file")
    losses.set_defaults(run=_perplexity)
    measured = commands.add_parser(
        "calibrate", help="measure the scales of an ONNX bundle's 8-bit key/value cache"
    )
    measured.add_argument("bundle", type=Path)
    measured.add_argument("--messages", type=Path, action="append", help="chat file; may repeat")
    measured.add_argument("--max-new-tokens", type=int, default=64)
    measured.set_defaults(run=_calibrate)
    providers = commands.add_parser(
        "providers", help="which operators of ONNX graphs the execution providers of phones run"
    )
    providers.add_argument("bundle", type=Path)
    providers.set_defaults(run=_providers)
    device = commands.add_parser("device-report", help="show what selfTest() found on a device")
    device.add_argument("file", type=Path, help="JSON of the Swift package's self-test")
    device.add_argument("--parity", type=Path, help="report.json of the bundle, to judge stages by")
    device.add_argument("--output", type=Path, help="default: the file's name with .html")
    device.set_defaults(run=_device_report)
    _add_answers(commands.add_parser("answers", help="how often a bundle answers rightly"))
    for command in (parity, trace):
        command.add_argument("--engine", choices=engine_names(), default="auto")
        command.add_argument(
            "--precision",
            choices=("fp32", "fp16"),
            default="fp32",
            help="of the interpreter; fp16 rounds as the device does",
        )
    return parser


def _add_answers(answers: argparse.ArgumentParser) -> None:
    answers.add_argument(
        "bundles", type=Path, nargs="*", metavar="BUNDLE", help="none: the checkpoint alone"
    )
    answers.add_argument("--checkpoint", help="folder they were made from; default: pocket model")
    answers.add_argument("--limit", type=int, default=ITEMS, help="questions a task")
    answers.add_argument("--tasks", nargs="+", choices=ROWS, default=tuple(ROWS), metavar="TASK")
    answers.add_argument(
        "--precision",
        nargs="+",
        choices=("fp32", "fp16"),
        default=("fp16",),
        help="of the interpreter, one column each; fp16 rounds as the device does",
    )
    answers.add_argument("--engine", choices=engine_names(), default="auto")
    answers.add_argument("--jobs", type=int, help="processes; default: one a core")
    answers.add_argument("--json", type=Path, help="also write the figures to this file")
    answers.set_defaults(run=_answers)


def _engine(options: argparse.Namespace) -> EngineOptions:
    return EngineOptions(name=options.engine, precision=options.precision)


def _parity(options: argparse.Namespace) -> int:
    if options.max_new_tokens < 0:
        raise InputError(f"--max-new-tokens is {options.max_new_tokens}; give 0 or more.")
    chats = [NamedChat(path.stem, read_chat(path)) for path in options.messages or ()]
    chats = chats or default_chats()
    wanted = ParityOptions(_engine(options), options.max_new_tokens, options.stages)
    source = source_of(options.bundle, options.checkpoint)
    report = run_parity(options.bundle, source, chats, wanted)
    if options.write_golden:
        write_golden(options.bundle, source, default_chats())
    report.print(Console(highlight=False))
    path = options.output or options.bundle / "report.json"
    report.write(path)
    print(path)
    return int(report.failed)


def _perplexity(options: argparse.Namespace) -> int:
    text = options.text.read_text(encoding="utf-8", errors="replace")
    source = open_checkpoint(options.checkpoint) if options.checkpoint else None
    losses = list(measure_bundles(options.bundles, text, options.tokens, source))
    print_losses(losses, Console(highlight=False))
    if options.json is not None:
        write_losses(losses, options.json)
        print(options.json)
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from validation.cache_scales import calibrate

    chats = [NamedChat(path.stem, read_chat(path)) for path in options.messages or ()]
    record = calibrate(options.bundle, chats or default_chats(), options.max_new_tokens)
    print(
        f"{record['positions']} positions of {', '.join(record['chats'])}; the median scale is "
        f"{record['median_ratio_to_data_free']:.2f} × the one known without data"
    )
    return 0


def _providers(options: argparse.Namespace) -> int:
    from validation.providers import print_assignments

    print_assignments(options.bundle, Console(highlight=False))
    return 0


def _device_report(options: argparse.Namespace) -> int:
    report = read_device_report(options.file)
    floors = read_floors(options.parity) if options.parity else None
    report.print(Console(highlight=False), floors)
    path = options.output or options.file.with_suffix(".html")
    report.write_page(path, floors)
    print(path)
    return int(report.failed(floors))


def _trace(options: argparse.Namespace) -> int:
    if options.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens is {options.max_new_tokens}; give 1 or more.")
    chat = read_chat(options.messages)
    if options.checkpoint is not None:
        arrays = trace_checkpoint(open_checkpoint(options.checkpoint), chat, options.max_new_tokens)
    else:
        session = Session.load(options.bundle, _engine(options))
        arrays = trace_bundle(session, chat, options.max_new_tokens)
    write_arrays(options.output, arrays)
    print(options.output)
    return 0


def _answers(options: argparse.Namespace) -> int:
    if options.limit < 1 or (options.jobs is not None and options.jobs < 1):
        raise InputError("--limit and --jobs must be at least 1.")
    bundles: list[Path] = options.bundles
    source = (
        source_of(bundles[0], options.checkpoint)
        if bundles
        else open_checkpoint(options.checkpoint)
    )
    for bundle in bundles:
        check_source(read_manifest(bundle), source)
    candidates = [Candidate("PyTorch fp32", options.checkpoint)]
    for bundle in bundles:
        manifest = read_manifest(bundle)
        for precision in options.precision:
            engine = EngineOptions(name=options.engine, precision=precision)
            name = candidate_name(manifest, precision)
            candidates.append(Candidate(name, bundle=bundle, engine=engine))
    console = Console(stderr=True)
    with ProgressBar(console=console, transient=True) as bar:
        total = len(candidates) * len(options.tasks) * options.limit
        task = bar.add_task("questions", total=total)
        report = score_candidates(
            candidates, options.tasks, options.limit, options.jobs, lambda: bar.advance(task)
        )
    report.print(Console(highlight=False))
    if options.json is not None:
        report.write(options.json)
        print(options.json)
    return 0
