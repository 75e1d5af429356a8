"""Kills exports and chats at random moments, as `kill -9` does, and counts what stays alive.

    python -m tests.fuzz.kills --kills 40 --seed 1

Only the process that a user started is killed: its workers have to end by themselves. Afterwards
the same commands must work, give the same bytes, and leave nothing half-written.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mobile_runtime.bundle import bundle_digest
from tests.counts import add_rows
from tests.fuzz.base import CHAT, make_base
from tests.paths import ROOT

PATIENCE = 30  # seconds in which workers must notice that they are alone


@dataclass(frozen=True)
class Command:
    """`arguments` of Python; `result(folder)` is what must be the same each time."""

    arguments: tuple[str, ...]
    result: object


# Name -> the command that works on a tiny checkpoint and its bundles, in a folder of its own.
KINDS = {
    "export-coreml": lambda base, folder: _exports("coreml", base, folder),
    "export-onnx": lambda base, folder: _exports("onnx", base, folder),
    "chat": lambda base, folder: _chats(base, folder),
}


def _exports(target, base, folder):
    sizes = ("--context-length", "64", "--prefill-length", "4", "--quant", "int4-fast")
    places = ("--output", str(folder / "out"), "--cache", str(folder / "cache"), "--overwrite")
    given = ("--checkpoint", str(base / "checkpoint"), "--jobs", "2", "--quiet")
    return Command(
        ("-m", "export", target, *given, *sizes, *places), lambda: _bundles(folder / "out")
    )


def _bundles(out):
    """Digests of the bundles, which are of all their files; nothing else may lie there."""
    return {path.name: bundle_digest(path) for path in out.iterdir()}


def _chats(base, folder):
    picture = ("--image", str(base / "pictures/png"), "--prepacked", str(folder / "prepacked"))
    return Command(
        ("-m", "mobile_runtime", "chat", str(base / "bundles/onnx"), *CHAT, *picture),
        lambda: sorted(path.name for path in (folder / "prepacked").iterdir()),
    )


def main():
    """Kill as often as told; 1 if anything stayed alive or became another."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--base", type=Path, help="folder for what is exported and asked, kept")
    parser.add_argument("--json", type=Path, help="file of counts, to which a row is added")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        base = make_base((options.base or Path(place) / "base").resolve())
        rng = random.Random(options.seed)
        counts = _run(options.kinds, options.kills, rng, base, Path(place))
    if options.json:
        row = {name: counts[name] for name in (*_COUNTED, *_BAD)}
        add_rows(options.json, {"kills": {**row, "kinds": options.kinds, "seed": options.seed}})
    return int(any(counts[name] for name in _BAD))


def _run(kinds, kills, rng, base, place):
    """Kill `kills` times, the kinds in turn; how often what happened."""
    commands = {name: KINDS[name](base, place / name) for name in kinds}
    whole, seconds, counts = {}, {}, Counter()
    for name in kinds:
        for _ in range(2):  # what is compiled for the first one is not compiled again
            shutil.rmtree(place / name, ignore_errors=True)
            begin = time.monotonic()
            whole[name] = _finish(commands[name])
            seconds[name] = time.monotonic() - begin
    while counts["killed"] < kills:
        name = kinds[(counts["killed"] + counts["ended before"]) % len(kinds)]
        moment = rng.random() * seconds[name]
        counts += _kill(commands[name], moment, name)
        print(f"{counts['killed']} killed: {name} after {moment:.2f} s", flush=True)
        if rng.random() < _GOES_ON:
            continue
        counts["other results"] += _finish(commands[name]) != whole[name]
        counts["finished"] += 1
        shutil.rmtree(place / name)
    for name, command in commands.items():
        counts["other results"] += _finish(command) != whole[name]
        counts["finished"] += 1
    print(", ".join(f"{name} {counts[name]}" for name in (*_COUNTED, *_BAD)))
    return counts


_COUNTED = ("killed", "ended before", "workers seen", "finished")
_BAD = ("orphans", "other results")
_GOES_ON = 0.7  # share of kills after which the same work is begun again, to be killed again


def _start(command, **streams):
    arguments = [sys.executable, *command.arguments]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **streams}
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, cwd=ROOT, env=variables, start_new_session=True, **quiet)


def _finish(command):
    process = _start(command)
    if process.wait():
        raise SystemExit(f"{' '.join(command.arguments)} ended with {process.returncode}")
    return command.result()


def _kill(command, moment, name):
    process = _start(command, stderr=subprocess.DEVNULL)
    try:
        process.wait(moment)
        ended = 1
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        ended = 0
    left = _members(process.pid)
    workers, deadline = len(left), time.monotonic() + PATIENCE
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = _members(process.pid)
    for orphan in left:
        print(f"alive after {name}: process {orphan}", file=sys.stderr)
        os.kill(orphan, signal.SIGKILL)
    counts = {"killed": 1 - ended, "ended before": ended}
    return Counter({**counts, "workers seen": workers, "orphans": len(left)})


def _members(session):
    """Processes of a session that are not dead: what the killed one had started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *numbers = status.read_text().rpartition(") ")[2].split()
        except OSError:  # gone meanwhile
            continue
        if int(numbers[2]) == session and state not in "ZX":
            found.append(int(status.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
