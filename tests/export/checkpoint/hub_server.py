"""A hub on loopback: what the `huggingface_hub` client asks of it, with faults on demand."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Files of one repository by name. `cut` names files whose first transfer breaks off at half,
    `spoilt` those that are sent with another byte; `log` holds (method, file, range)."""

    large = (".safetensors",)  # endings of names

    def __init__(self, repository, files):
        self.repository, self.files = repository, files
        self.cut, self.spoilt, self.log = set(), set(), []
        self.endpoint = ""

    def fetched(self):
        """Names of the files whose content was asked for."""
        return {name for method, name, _ in self.log if method == "GET"}

    def at(self, revision):
        """(commit, its files) that a revision names; None if it names none."""
        return REVISION, self.files

    def etag(self, name, data):
        """As the hub does: SHA-256 of large files, git's SHA-1 of small ones."""
        if name.endswith(self.large):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def sent(self, name, data):
        """The bytes that the server sends."""
        if name not in self.spoilt:
            return data
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

    def entry(self, name, data):
        """A file in the listing of the repository."""
        size, etag = len(data), self.etag(name, data)
        large = {"lfs": {"oid": etag, "size": size, "pointerSize": 130}}
        plain = {"type": "file", "path": name, "size": size}
        return plain | {"oid": etag} | (large if name.endswith(self.large) else {})

    def facts(self):
        """What the hub says of the repository besides its name, commit and files."""
        return {}


@contextmanager
def running(hub, handler=None):
    """Serve `hub` at `hub.endpoint` while the block runs."""
    kind = type("Handler", (handler or Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """Reads; nothing can be written."""

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
        api = re.fullmatch(rf"/api/models/{hub.repository}(?:/(tree|revision)/([^/]+))?", path)
        file = re.fullmatch(rf"/{hub.repository}/resolve/([^/]+)/(.+)", path)
        if api is None and file is None:
            return self._missing("RepoNotFound", with_body)
        found = hub.at(unquote((api[2] or "main") if api else file[1]))
        if found is None:
            return self._missing("RevisionNotFound", with_body)
        if api is not None:
            return self._listing(api[1], *found)
        name = unquote(file[2])
        if name not in found[1]:
            return self._missing("EntryNotFound", with_body)
        return self._file(name, *found, with_body)

    def _missing(self, code, with_body):
        self._send(404, b"", {"X-Error-Code": code}, with_body)

    def _listing(self, kind, commit, files):
        hub, names = self.hub, sorted(files)
        if kind == "tree":
            return self.json([hub.entry(name, files[name]) for name in names])
        siblings = [{"rfilename": name} for name in names]
        return self.json({"id": hub.repository, "sha": commit, "siblings": siblings} | hub.facts())

    def json(self, value, status=200):
        """Answer with a JSON value."""
        kind = {"Content-Type": "application/json"}
        self._send(status, json.dumps(value).encode(), kind, True)

    def _file(self, name, commit, files, with_body):
        hub = self.hub
        hub.log.append((self.command, name, self.headers.get("Range")))
        data, etag = hub.sent(name, files[name]), hub.etag(name, files[name])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
        headers |= {"Accept-Ranges": "bytes"}
        if name.endswith(hub.large):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
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
