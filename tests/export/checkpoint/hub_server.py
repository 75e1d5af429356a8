"""A hub on loopback: what the `huggingface_hub` client asks of it, with faults on demand."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Files of one repository by name. `cut` names files whose first transfer breaks off at half,
    `spoilt` those that are sent with another byte; `log` holds (method, file, range)."""

    def __init__(self, repository, files):
        self.repository, self.files = repository, files
        self.cut, self.spoilt, self.log = set(), set(), []
        self.endpoint = ""

    def fetched(self):
        """Names of the files whose content was asked for."""
        return {name for method, name, _ in self.log if method == "GET"}

    def etag(self, name):
        """As the hub does: SHA-256 of large files, git's SHA-1 of small ones."""
        data = self.files[name]
        if name.endswith(".safetensors"):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def sent(self, name):
        """The bytes that the server sends."""
        data = self.files[name]
        if name not in self.spoilt:
            return data
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

    def entry(self, name):
        """A file in the listing of the repository."""
        size = len(self.files[name])
        large = {"lfs": {"oid": self.etag(name), "size": size, "pointerSize": 130}}
        plain = {"type": "file", "path": name, "size": size}
        return plain | {"oid": self.etag(name)} | (large if name.endswith("tensors") else {})


@contextmanager
def running(hub):
    """Serve `hub` at `hub.endpoint` while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub = None  # of a subclass for each server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        hub, path = self.hub, self.path.partition("?")[0]
        if path.startswith(f"/api/models/{hub.repository}"):
            return self._json(path)
        found = re.fullmatch(rf"/{hub.repository}/resolve/[^/]+/(.+)", path)
        if found is None or found[1] not in hub.files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
        return self._file(found[1], with_body)

    def _json(self, path):
        hub = self.hub
        names = sorted(hub.files)
        if "/tree/" in path:
            value = [hub.entry(name) for name in names]
        else:
            siblings = [{"rfilename": name} for name in names]
            value = {"id": hub.repository, "sha": REVISION, "siblings": siblings}
        kind = {"Content-Type": "application/json"}
        return self._send(200, json.dumps(value).encode(), kind, True)

    def _file(self, name, with_body):
        hub = self.hub
        hub.log.append((self.command, name, self.headers.get("Range")))
        data = hub.sent(name)
        headers = {"ETag": f'"{hub.etag(name)}"', "X-Repo-Commit": REVISION}
        headers |= {"Accept-Ranges": "bytes"}
        if name.endswith(".safetensors"):
            headers |= {"X-Linked-Etag": f'"{hub.etag(name)}"', "X-Linked-Size": str(len(data))}
        begin = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if begin and with_body:
            rest = data[int(begin[1]) :]
            headers["Content-Range"] = f"bytes {begin[1]}-{len(data) - 1}/{len(data)}"
            return self._send(206, rest, headers, with_body)
        if with_body and name in hub.cut:
            hub.cut.discard(name)
            return self._send(200, data, headers, with_body, sent=len(data) // 2)
        return self._send(200, data, headers, with_body)

    def _send(self, status, data, headers, with_body, sent=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            self.wfile.write(data[:sent])
        if sent is not None:
            self.close_connection = True
