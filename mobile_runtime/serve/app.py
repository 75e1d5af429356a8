"""The HTTP side: routes, bodies, streams, and clients that leave. Knows no sessions.

Every route but /health asks `Access` first, and every error has OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mobile_runtime.serve.access import Access
from mobile_runtime.serve.api_error import ApiError
from mobile_runtime.serve.bodies import read_body
from mobile_runtime.serve.chat_request import ChatRequest, parse_request
from mobile_runtime.serve.completions import (
    SERVER_SENT_END,
    Completion,
    server_sent,
    to_json,
)
from mobile_runtime.serve.limits import Limits
from mobile_runtime.serve.metrics import Metrics
from mobile_runtime.serve.worker import Delta, Event, Failed, Finished, Job, Worker

_KEEP_ALIVE_SECONDS = 15.0  # between signs of life, so that nobody on the way hangs up
_STOP_SECONDS = 5.0  # for the token that is computed while the server stops
_POLL_SECONDS = 0.05
_JSON = "application/json"


@dataclass(frozen=True)
class Served:
    """One model: who answers, the digest of its bundle, and when that was opened."""

    worker: Worker
    fingerprint: str
    created: int


@dataclass(frozen=True)
class Settings:
    """What a server serves and to whom. `files` is the folder of files that messages may name."""

    models: Mapping[str, Served]
    access: Access
    limits: Limits
    files: Path | None = None


class Api:
    """The handlers of one server, and what they share. `stops` says whether the server has been
    told to end."""

    def __init__(self, settings: Settings, stops: Callable[[], bool] = lambda: False) -> None:
        self.settings, self.metrics, self._stops = settings, Metrics(), stops
        self._arriving = 0  # requests whose body is still read

    def app(self, *routes: Route) -> Starlette:
        """The application, with further routes of a page."""
        own = [
            Route("/health", self._health),
            Route("/metrics", self.guarded(self._prometheus)),
            Route("/v1/models", self.guarded(self._models)),
            Route("/v1/models/{name:path}", self.guarded(self._model)),
            Route("/v1/chat/completions", self.guarded(self._chat), methods=["POST"]),
        ]
        return Starlette(
            routes=[*own, *routes],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: self._http_error, Exception: self._fault},
        )

    def guarded(
        self, handler: Callable[[Request, str], Awaitable[Response | _Streamed]]
    ) -> Callable[[Request], Awaitable[Response | _Streamed]]:
        """The handler for those who may ask, with errors in OpenAI's shape."""

        async def handle(request: Request) -> Response | _Streamed:
            response: Response | _Streamed
            try:
                response = await handler(request, self._client(request))
            except ApiError as error:
                response = _error(error)
            except ClientDisconnect:
                self.metrics.count_cancelled()
                return Response(status_code=499)  # nobody reads it
            self.metrics.count_response(response.status_code)
            return response

        return handle

    def _client(self, request: Request) -> str:
        address = request.client.host if request.client else "local"
        headers = request.headers
        return self.settings.access.client(
            headers.get("authorization"), headers.get("host"), address
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        workers = [served.worker for served in self.settings.models.values()]
        for worker in workers:
            worker.start()
        watcher = asyncio.create_task(self._refuse_when_stopping(workers))
        yield
        watcher.cancel()
        for worker in workers:
            await run_in_threadpool(worker.stop, _STOP_SECONDS)

    async def _refuse_when_stopping(self, workers: list[Worker]) -> None:
        """Those that wait are told at once; the answer that is computed has its time of grace."""
        while not self._stops():
            await asyncio.sleep(_POLL_SECONDS)
        for worker in workers:
            worker.refuse_waiting()

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _error(ApiError(error.status_code, f"{request.url.path[:80]}: {error.detail}."))

    async def _fault(self, request: Request, error: Exception) -> Response:
        return _error(ApiError(500, "The server failed at this; its own log has the reason."))

    async def _health(self, request: Request) -> Response:
        if self._stops():
            return _error(_stopping())
        return _json({"status": "ok"})

    async def _prometheus(self, request: Request, client: str) -> Response:
        workers = [served.worker for served in self.settings.models.values()]
        waiting = sum(len(worker.queue) for worker in workers)
        running = sum(worker.running is not None for worker in workers)
        text = self.metrics.text(waiting, running)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request, client: str) -> Response:
        return _json({"object": "list", "data": [self._card(n) for n in self.settings.models]})

    async def _model(self, request: Request, client: str) -> Response:
        self._served(name := request.path_params["name"])
        return _json(self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        created = self.settings.models[name].created
        return {"id": name, "object": "model", "created": created, "owned_by": "local"}

    def _served(self, name: str) -> Served:
        if name not in self.settings.models:
            there = ", ".join(self.settings.models)
            raise ApiError(
                404,
                f"There is no model {name[:80]!r}; there is {there}.",
                param="model",
                code="model_not_found",
            )
        return self.settings.models[name]

    async def _chat(self, request: Request, client: str) -> Response | _Streamed:
        deadline = time.monotonic() + self.settings.limits.request_seconds
        self._make_room(client)
        self._arriving += 1
        try:
            body = await read_body(request, self.settings.limits)
            asked = await run_in_threadpool(parse_request, body, self.settings.files)
            served = self._served(asked.model)
            answer = _Answer(self, served, asked, client, deadline)
        finally:
            self._arriving -= 1
        del body  # it may be large, and an answer takes long
        return await answer.respond(request)

    def _make_room(self, client: str) -> None:
        """Raises `ApiError` if too many wait, unless another client has more of them: then its
        last one is told to come again."""
        if self._stops():
            raise _stopping()
        queues = [served.worker.queue for served in self.settings.models.values()]
        waiting = self._arriving + sum(map(len, queues))
        if waiting < self.settings.limits.waiting:
            return
        full = ApiError(
            429,
            f"{waiting} requests are waiting; ask again later.",
            code="rate_limit_exceeded",
            retry_after=max(1, min(60, waiting)),
        )
        greedy = max(queues, key=len)
        if (last := greedy.give_way(client)) is None:
            raise full
        last.post(Failed(full))


class _Answer:
    """One request from its place in the queue to its last byte."""

    def __init__(
        self, api: Api, served: Served, asked: ChatRequest, client: str, deadline: float
    ) -> None:
        self._api, self._worker = api, served.worker
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        tokenizer = served.worker.session.tokenizer
        self._completion = Completion(asked, tokenizer, served.fingerprint)
        self._ended = False
        self._job = Job(client, asked, deadline, self._post)
        if not self._worker.queue.put(self._job):
            raise _stopping()

    def _post(self, event: Event) -> None:
        with suppress(RuntimeError):  # the loop has ended with the server
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def respond(self, request: Request) -> Response | _Streamed:
        """The whole answer, or the beginning of a stream once it is known to be one."""
        left = asyncio.create_task(_left(request))
        try:
            await self._start(left)
            if not self._job.request.stream:
                return await self._whole(left)
        except BaseException:
            self._leave()
            raise
        finally:
            left.cancel()
        return _Streamed(self._chunks(request), self._end_of_stream)

    def _leave(self) -> None:
        self._worker.cancel(self._job)

    def _end_of_stream(self) -> None:
        if not self._ended:
            self._leave()
            self._api.metrics.count_cancelled()

    async def _next(self, left: asyncio.Task[None], seconds: float | None) -> Event | None:
        """The next event; None if there is none within that time. Raises `ClientDisconnect`."""
        event = asyncio.create_task(self._events.get())
        try:
            await asyncio.wait({event, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                return event.result()
            if left.done():
                raise ClientDisconnect
            return None
        finally:
            event.cancel()

    async def _start(self, left: asyncio.Task[None]) -> None:
        wait = self._job.deadline - time.monotonic()
        event = await self._next(left, max(0.0, wait))
        if event is None:
            raise ApiError(503, "The request waited too long; ask again later.", retry_after=30)
        if isinstance(event, Failed):
            raise event.error

    async def _whole(self, left: asyncio.Task[None]) -> Response:
        while not isinstance(event := await self._next(left, None), Finished):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Delta):
                self._completion.add(event)
        self._api.metrics.count_answer(event.statistics)
        return _json(self._completion.whole(event))

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        left = asyncio.create_task(_left(request))
        try:
            yield server_sent(self._completion.first_chunk())
            while not self._ended:
                event = await self._next(left, _KEEP_ALIVE_SECONDS)
                if event is None:
                    yield b": still computing\n\n"
                elif isinstance(event, Delta):
                    yield server_sent(self._completion.chunk(event))
                elif isinstance(event, Failed):
                    self._ended = True
                    yield server_sent(event.error.as_json())
                elif isinstance(event, Finished):
                    self._ended = True
                    self._api.metrics.count_answer(event.statistics)
                    for chunk in self._completion.last_chunks(event):
                        yield server_sent(chunk)
                    yield SERVER_SENT_END
        except ClientDisconnect:
            pass
        finally:
            left.cancel()


class _Streamed:
    """A response of server-sent events. However it ends, `at_end` is called: a client may leave
    before the first event is asked for."""

    status_code = 200

    def __init__(self, chunks: AsyncIterator[bytes], at_end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self._inner = StreamingResponse(chunks, media_type="text/event-stream", headers=headers)
        self._at_end = at_end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._inner(scope, receive, send)
        finally:
            self._at_end()


async def _left(request: Request) -> None:
    """Ends when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stopping() -> ApiError:
    return ApiError(503, "The server is stopping; ask again later.", retry_after=5)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type=_JSON)


def _error(error: ApiError) -> Response:
    return _json(error.as_json(), error.status, error.headers)
