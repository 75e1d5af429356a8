"""Opens bundles, listens, and serves until a signal."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.routing import Route

from mobile_runtime.bundle import bundle_digest
from mobile_runtime.engines import EngineOptions
from mobile_runtime.errors import InputError
from mobile_runtime.model.hub import bundle_name
from mobile_runtime.serve.access import Access
from mobile_runtime.serve.app import Api, Served, Settings
from mobile_runtime.serve.kept_sessions import count_within, session_bytes
from mobile_runtime.serve.limits import Limits
from mobile_runtime.serve.worker import Worker
from mobile_runtime.session import Session

GRACE_SECONDS = 10  # for answers that are computed when the server is told to stop
_ANNOUNCE_SECONDS = 0.01


@dataclass(frozen=True)
class Plan:
    """What to serve: bundles, the engine that runs them, bytes for kept conversations of each, the
    folder of files that messages may name, who may ask, and how much."""

    bundles: Sequence[Path]
    engine: EngineOptions
    cache_bytes: int
    files: Path | None
    access: Access
    limits: Limits


def open_models(plan: Plan) -> dict[str, Served]:
    """Open each bundle under its name. Raises `InputError`."""
    names = [bundle_name(bundle) for bundle in plan.bundles]
    if len(set(names)) < len(names):
        raise InputError(f"both bundles are called {names[0]}; give two with different names.")
    return {name: _open(bundle, plan) for name, bundle in zip(names, plan.bundles, strict=True)}


def _open(bundle: Path, plan: Plan) -> Served:
    session = Session.load(bundle, plan.engine)
    kept = count_within(plan.cache_bytes, session.manifest)
    worker = Worker(session, kept, plan.files)
    return Served(worker, bundle_digest(bundle)[:16], int(time.time()))


def describe_memory(plan: Plan, models: dict[str, Served]) -> list[str]:
    """A sentence for each model: how many conversations are kept, and what they take at most."""
    lines = []
    for name, served in models.items():
        manifest = served.worker.session.manifest
        count, size = count_within(plan.cache_bytes, manifest), session_bytes(manifest)
        lines.append(
            f"{name}: keeps up to {count} conversation{'s' * (count > 1)}, at most "
            f"{size / 1e6:,.0f} MB each"
        )
    return lines


def serve_until_stopped(
    plan: Plan,
    models: dict[str, Served],
    listening: socket.socket,
    announce: Callable[[], None],
    routes: Callable[[Api], Sequence[Route]] = lambda api: (),
) -> None:
    """Serve on an open socket until SIGTERM, after which this returns, or SIGINT, which raises
    `KeyboardInterrupt`. `announce` is called when requests are answered; `routes` gives those of a
    page. Answers that are computed then have `GRACE_SECONDS`."""
    server: uvicorn.Server | None = None
    settings = Settings(models, plan.access, plan.limits, plan.files)
    api = Api(settings, stops=lambda: server is not None and server.should_exit)
    config = uvicorn.Config(
        api.app(*routes(api)),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws="none",
        proxy_headers=False,  # they would let anybody be any client
    )
    server = uvicorn.Server(config)
    with _returning_after_sigterm():
        asyncio.run(_serve(server, listening, announce))


async def _serve(
    server: uvicorn.Server, listening: socket.socket, announce: Callable[[], None]
) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(_ANNOUNCE_SECONDS)
    if server.started:
        announce()
    await serving


@contextmanager
def _returning_after_sigterm() -> Iterator[None]:
    """uvicorn ends on SIGTERM and then raises the signal again, which would end this process before
    it has said goodbye."""
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
