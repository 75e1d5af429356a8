"""A hub on loopback that can be written to: branches, large files by LFS, commits."""

import base64
import hashlib
import json
import re
from urllib.parse import unquote

from tests.export.checkpoint.hub_server import Handler, Hub


class WritableHub(Hub):
    """One repository, which is there after it was made. `refuse_after` large files are taken, then
    no more; None: all. `stored` has the large files by SHA-256, `puts` those that came, in turn."""

    large = (".bin", ".onnx", ".onnx_data")

    def __init__(self, repository):
        super().__init__(repository, {})
        self.commits, self.branches, self.private = {}, {}, None
        self.stored, self.puts, self.refuse_after = {}, [], None

    @property
    def exists(self):
        """Whether the repository was made."""
        return bool(self.branches)

    def make(self, private):
        """Make the repository, with the file that the hub puts there."""
        self.private = private
        self.commit("main", {".gitattributes": b"*.bin filter=lfs\n"})

    def commit(self, branch, files):
        """Put files on a branch; returns the commit."""
        described = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())
        commit = hashlib.sha1(repr((described, len(self.commits))).encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        return commit

    def at(self, revision):
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None

    def facts(self):
        return {"private": self.private}

    def apply(self, branch, lines):
        """A commit from the lines that the client sends; None if it was made for another head."""
        files = dict(self.commits[self.branches[branch]])
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                if value.get("parentCommit") != self.branches[branch]:
                    return None
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            else:
                assert key == "deletedFile"
                del files[value["path"]]
        return self.commit(branch, files)


class WritingHandler(Handler):
    """What the client asks to put a folder on the hub."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        for pattern, answer in (
            ("/api/repos/create", self._create),
            ("/api/validate-yaml", self._validate),
            (rf"/api/models/{self.hub.repository}/branch/([^/]+)", self._branch),
            (rf"/api/models/{self.hub.repository}/preupload/([^/]+)", self._modes),
            (rf"/{self.hub.repository}.git/info/lfs/objects/batch", self._batch),
            (rf"/api/models/{self.hub.repository}/commit/([^/]+)", self._commit),
        ):
            if found := re.fullmatch(pattern, path):
                return answer(body, *map(unquote, found.groups()))
        return self.json({"error": f"nothing at {path}"}, 404)

    def do_PUT(self):
        hub, data = self.hub, self.rfile.read(int(self.headers["Content-Length"]))
        if hub.refuse_after is not None and len(hub.puts) >= hub.refuse_after:
            return self.json({"error": "storage is out of reach"}, 403)
        assert hashlib.sha256(data).hexdigest() == self.path.rpartition("/")[2]
        hub.stored[self.path.rpartition("/")[2]] = data
        hub.puts.append(self.path.rpartition("/")[2])
        return self.json({})

    def _create(self, body):
        if self.headers.get("Authorization") is None:
            return self.json({"error": "Invalid username or password."}, 401)
        url = {"url": f"{self.hub.endpoint}/{self.hub.repository}"}
        if self.hub.exists:
            return self.json({"error": "You already created this model repo"} | url, 409)
        self.hub.make(json.loads(body).get("visibility") == "private")
        return self.json(url)

    def _validate(self, body):
        content = json.loads(body)["content"]
        self.hub.card = content
        return self.json({"errors": [], "warnings": []})

    def _branch(self, _, name):
        if name in self.hub.branches:
            return self.json({"error": "Reference already exists"}, 409)
        self.hub.branches[name] = self.hub.branches["main"]
        return self.json({})

    def _modes(self, body, revision):
        files = self.hub.at(revision)[1]
        return self.json(
            {
                "files": [
                    {
                        "path": (name := file["path"]),
                        "uploadMode": "lfs" if name.endswith(self.hub.large) else "regular",
                        "shouldIgnore": False,
                        "oid": self.hub.etag(name, files[name]) if name in files else None,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        )

    def _batch(self, body):
        objects = []
        for wanted in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.endpoint}/storage/{wanted['oid']}"}}
            known = wanted["oid"] in self.hub.stored
            objects.append(wanted | ({} if known else {"actions": upload}))
        return self.json({"transfer": "basic", "objects": objects})

    def _commit(self, body, branch):
        commit = self.hub.apply(branch, map(json.loads, body.splitlines()))
        if commit is None:
            return self.json({"error": "A commit has happened since."}, 412)
        url = f"{self.hub.endpoint}/{self.hub.repository}/commit/{commit}"
        return self.json({"success": True, "commitOid": commit, "commitUrl": url})
