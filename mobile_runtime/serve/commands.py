"""The commands `serve` and `demo`. The server's libraries are imported when one runs."""

from __future__ import annotations

import argparse
import secrets
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_runtime.command import BUNDLE_HELP, add_engine, engine_options, printable
from mobile_runtime.errors import InputError
from mobile_runtime.serve.access import access_for, is_loopback, listen, read_keys
from mobile_runtime.serve.limits import Limits

if TYPE_CHECKING:
    from mobile_runtime.serve.server import Plan

SERVE = "answer OpenAI's API for chat completions over HTTP"
DEMO = "show a page in the browser that asks a bundle, or two side by side"
_LIBRARIES = ("starlette", "uvicorn")


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    parser.add_argument("bundle", type=Path, help=BUNDLE_HELP)
    _add_server(parser)


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal; return 0 after SIGTERM."""
    return _run([options.bundle], options)


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `demo`."""
    parser.add_argument(
        "bundles", type=Path, nargs="+", metavar="BUNDLE", help="one, or two to compare"
    )
    _add_server(parser)


def demo(options: argparse.Namespace) -> int:
    """Serve the page and the API that it asks until a signal; return 0 after SIGTERM."""
    if len(options.bundles) > 2:
        raise InputError(f"{len(options.bundles)} bundles are given; give one, or two to compare.")
    return _run(options.bundles, options, with_page=True)


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; others than this machine's own loopback need a key "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="0: a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="keys that may ask, one per line; without it, one is made and printed if the host is "
        "not the loopback",
    )
    parser.add_argument(
        "--files", type=Path, metavar="DIR", help="folder whose pictures and videos may be named"
    )
    parser.add_argument(
        "--cache-memory",
        type=float,
        default=2.0,
        metavar="GB",
        help="for the caches of recent conversations; at least one is kept (default: %(default)s)",
    )
    defaults = Limits()
    parser.add_argument(
        "--max-body-mb",
        type=float,
        default=defaults.body_bytes / 1e6,
        metavar="MB",
        help="largest body of a request (default: %(default)s)",
    )
    parser.add_argument(
        "--max-waiting",
        type=int,
        default=defaults.waiting,
        metavar="N",
        help="requests that may wait (default: %(default)s)",
    )
    parser.add_argument(
        "--request-seconds",
        type=float,
        default=defaults.request_seconds,
        metavar="S",
        help="until an answer is cut, waiting included (default: %(default)s)",
    )
    add_engine(parser)


def _run(bundles: list[Path], options: argparse.Namespace, with_page: bool = False) -> int:
    _check_installed()
    from mobile_runtime.serve.page import page_routes
    from mobile_runtime.serve.server import describe_memory, open_models, serve_until_stopped

    plan, key = _plan(bundles, options)
    with listen(options.host, options.port) as listening:
        models = open_models(plan)

        def announce() -> None:
            for line in describe_memory(plan, models):
                print(printable(line), file=sys.stderr)
            if key is not None:
                print(f"key: {key}")
            page = f"/#key={key}" if key is not None else "/"
            where = _url(options.host, listening) + (page if with_page else "/v1")
            print(f"{where} answers; Ctrl-C ends it", flush=True)

        routes = page_routes if with_page else (lambda api: ())
        serve_until_stopped(plan, models, listening, announce, routes)
    return 0


def _plan(bundles: list[Path], options: argparse.Namespace) -> tuple[Plan, str | None]:
    """What the options say, and a key if one had to be made. Raises `InputError`."""
    from mobile_runtime.serve.server import Plan

    for name in ("cache_memory", "max_body_mb", "max_waiting", "request_seconds"):
        if not 0 < (value := getattr(options, name)) < 1e9:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is {value}; give a number above 0 and below 10⁹.")
    if options.files is not None and not options.files.is_dir():
        raise InputError(f"--files is {options.files}, which is no folder; give one.")
    keys = [] if options.api_key_file is None else read_keys(options.api_key_file)
    made = None
    if not keys and not is_loopback(options.host):
        made = secrets.token_urlsafe(32)
        keys = [made]
    plan = Plan(
        bundles=bundles,
        engine=engine_options(options),
        cache_bytes=int(options.cache_memory * 1e9),
        files=options.files,
        access=access_for(options.host, keys),
        limits=Limits(
            body_bytes=int(options.max_body_mb * 1e6),
            waiting=options.max_waiting,
            request_seconds=options.request_seconds,
        ),
    )
    return plan, made


def _check_installed() -> None:
    if missing := [name for name in _LIBRARIES if find_spec(name) is None]:
        raise InputError(
            f"{' and '.join(missing)} not installed, which serving needs; run pip install -e "
            "'.[serve]'."
        )


def _url(host: str, listening: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"
