"""A local server that speaks as much of the hub's protocol as creating, uploading, listing and downloading takes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import huggingface_hub.constants as constants
import pytest

TOKEN = "hf_" + "s3cret0f7he7ests" * 2
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False


class HubServer(ThreadingHTTPServer):
    """Keeps what is uploaded; `refuses` commits with 403 when told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.refuses = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def hub_server(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubServer]:
    """A server that huggingface_hub, which reads its environment once, takes for the hub."""
    server = HubServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def knows_me(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        body, path = self.read(), self.path.partition("?")[0]
        if not self.knows_me:
            self.answer(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
            private = asked.get("private") or asked.get("visibility") == "private"
            there = name in self.server.repositories
            self.server.repositories.setdefault(name, Repository(bool(private)))
            self.answer(409 if there else 200, {"url": f"{self.server.url}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [self.mode(file["path"]) for file in json.loads(body)["files"]]
            self.answer(200, {"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            self.answer(200, {"transfer": "basic", "objects": [self.place(o) for o in json.loads(body)["objects"]]})
        elif "/commit/" in path:
            self.commit(path.split("/api/models/")[1].split("/commit/")[0], body)
        else:
            self.answer(404, {"error": path})

    def mode(self, path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith(".safetensors") else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def place(self, asked: dict[str, Any]) -> dict[str, Any]:
        return asked | {"actions": {"upload": {"href": f"{self.server.url}/large/{asked['oid']}"}}}

    def do_PUT(self) -> None:
        content = self.read()
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.server.large[self.path.rpartition("/")[2]] = content
        self.answer(200)

    def commit(self, name: str, body: bytes) -> None:
        if self.server.refuses:
            self.answer(403, {"error": f"no more storage for {TOKEN}"})
            return
        files = self.server.repositories[name].files
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        found = {"commitOid": COMMIT, "commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "success": True}
        self.answer(200, found)

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path == "/api/whoami-v2":
            self.answer(200 if self.knows_me else 401, {"name": "tester", "type": "user", "orgs": []})
        elif about := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/(.+))?", path):
            self.about(about[1], about[3] or "main")
        elif file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(file[1], file[2], file[3])
        else:
            self.answer(404, {"error": path})

    do_HEAD = do_GET

    def found(self, name: str, revision: str) -> Repository | None:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.knows_me):
            self.answer(404 if self.knows_me else 401, {"error": "not found"}, X_Error_Code="RepoNotFound")
        elif revision not in ("main", COMMIT):
            self.answer(404, {"error": "no revision"}, X_Error_Code="RevisionNotFound")
        else:
            return repository
        return None

    def about(self, name: str, revision: str) -> None:
        if repository := self.found(name, revision):
            files = [{"rfilename": path} for path in repository.files]
            self.answer(200, {"id": name, "sha": COMMIT, "private": repository.private, "siblings": files})

    def file(self, name: str, revision: str, path: str) -> None:
        repository = self.found(name, revision)
        if repository is None:
            return
        if repository.gated and not self.knows_me:
            self.answer(403, {"error": "gated"}, X_Error_Code="GatedRepo")
        elif path not in repository.files:
            self.answer(404, {"error": "no file"}, X_Error_Code="EntryNotFound")
        else:
            content = repository.files[path]
            etag = hashlib.sha256(content).hexdigest()
            self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
