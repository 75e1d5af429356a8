"""The page of `demo`: static files that need no network, and which frames of a video are read."""

from __future__ import annotations

import asyncio
import base64
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mobile_runtime.bundle import Manifest
from mobile_runtime.errors import InputError
from mobile_runtime.pictures.video import (
    VideoOptions,
    fit_frames,
    plan_frames,
    probe_video,
    read_frames,
)
from mobile_runtime.serve.api_error import ApiError
from mobile_runtime.serve.app import Api
from mobile_runtime.serve.bodies import read_body
from mobile_runtime.serve.completions import to_json

_FOLDER = Path(__file__).with_name("static")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# The page runs its own scripts only, and sends nothing elsewhere, whatever an answer says.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_VIDEO_SHARE = 2  # a video may take one of so many parts of the context
_AROUND = 3  # tokens around those of a frame's group
_THUMBNAIL = (160, 90)  # pixels


def page_routes(api: Api) -> list[Route]:
    """The files of the page, which everybody may read, and the frames of videos."""
    names = sorted(path.name for path in _FOLDER.iterdir() if path.suffix in _TYPES)
    routes = [Route(f"/{'' if name == 'index.html' else name}", _file(name)) for name in names]
    frames = api.guarded(_Frames(api).answer)
    return [*routes, Route("/demo/frames", frames, methods=["POST"])]


def _file(name: str) -> Any:
    content = (_FOLDER / name).read_bytes()
    kind = f"{_TYPES[Path(name).suffix]}; charset=utf-8"

    async def answer(request: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=kind)

    return answer


class _Frames:
    """Plans and decodes one video at a time."""

    def __init__(self, api: Api) -> None:
        models = api.settings.models.values()
        manifests = [served.worker.session.manifest for served in models]
        self._manifest = min(manifests, key=lambda one: one.decoding.context_length)
        self._limits, self._one = api.settings.limits, asyncio.Lock()

    async def answer(self, request: Request, client: str) -> Response:
        """The frames as small pictures with their times, and the settings of a message's part by
        which they are read."""
        most = request.query_params.get("max_frames", "0")
        if not most.isdigit() or len(most) > 6:
            raise ApiError(400, f"max_frames is {most[:40]!r}; give a whole number.")
        async with self._one:
            data = await read_body(request, self._limits, "application/octet-stream")
            try:
                found = await run_in_threadpool(frames_of, data, self._manifest, int(most))
            except InputError as error:
                raise ApiError(400, str(error)) from error
        return Response(to_json(found), media_type="application/json")


def frames_of(data: bytes, manifest: Manifest, most: int = 0) -> dict[str, Any]:
    """The frames of a video that a question about it reads: at most `most` of them, if that is not
    0, and no more than half of the context takes. Raises `InputError`."""
    with tempfile.TemporaryDirectory(prefix="minicpmv-demo-") as folder:
        path = Path(folder) / "the video"
        path.write_bytes(data)
        try:
            return _frames_of(path, manifest, most)
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", "")) from error


def _frames_of(path: Path, manifest: Manifest, most: int) -> dict[str, Any]:
    info = probe_video(path)
    room = manifest.decoding.context_length // _VIDEO_SHARE
    groups = max(1, room // (manifest.architecture.num_queries + _AROUND))
    fitted = fit_frames(info, VideoOptions(most=most or None), groups)
    settings: Mapping[str, int] = {
        "fps": VideoOptions().choose_fps,
        "max_frames": len(fitted.indices),
        "packing": len(fitted.temporal_ids[0]),
    }
    plan = plan_frames(info, VideoOptions.of_part(settings))  # as the message will be read
    times = [number / info.fps for number in plan.indices]
    frames = [
        {"seconds": round(seconds, 3), "image": _thumbnail(frame)}
        for seconds, frame in zip(times, read_frames(path, plan.indices), strict=True)
    ]
    return {"frames": frames, "settings": settings}


def _thumbnail(frame: Image.Image) -> str:
    small = frame.convert("RGB")
    small.thumbnail(_THUMBNAIL)
    jpeg = io.BytesIO()
    small.save(jpeg, "jpeg", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
