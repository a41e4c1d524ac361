"""A stand-in of the Hugging Face Hub on this machine, which the Hub's real library talks to over HTTP.

It keeps commits in memory, and knows the few addresses that a push and a download ask for.
"""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Repository:
    """Files by commit, the newest last."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add a commit and return its name."""
        known = repr((len(self.commits), sorted(files.items()))).encode()
        sha = hashlib.sha1(known, usedforsecurity=False).hexdigest()
        self.commits[sha] = files
        return sha

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]


@dataclass
class PretendedHub:
    """Repositories by name, what was asked for ("METHOD /path"), and how the next answers are spoiled.

    `refuse` is the status of every answer, `cut` the file whose content ends half-way.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    refuse: int | None = None
    cut: str = ""

    def put(self, name: str, files: dict[str, bytes], *, private: bool = True) -> str:
        """A commit of these files alone; returns its name."""
        return self.repositories.setdefault(name, Repository(private)).commit(
            {".gitattributes": b"", **files}
        )


@contextlib.contextmanager
def pretended_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedHub]:
    """Let the Hub's library talk to a stand-in; nothing else is changed in it."""
    import huggingface_hub
    from huggingface_hub import constants

    hub = PretendedHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # ends as soon as asked
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for name in ("HUGGINGFACE_CO_URL_TEMPLATE", "ENDPOINT"):
        monkeypatch.setattr(constants, name, getattr(constants, name).replace(constants.ENDPOINT, address))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_pretended")
    huggingface_hub.close_session()
    try:
        yield hub
    finally:
        huggingface_hub.close_session()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: PretendedHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.refuse is not None:
            self._send(self.hub.refuse, b"{}")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.startswith("/api/models/"):
            owner, name, *rest = path.removeprefix("/api/models/").split("/")
            self._of_model(f"{owner}/{name}", rest, body)
        elif "/resolve/" in path:
            name, _, place = path.lstrip("/").partition("/resolve/")
            revision, _, file = place.partition("/")
            self._file(name, revision, file)
        else:  # what the library asks for once, and does without
            self._send(404, b"{}")

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        if name in self.hub.repositories:
            self._json({"url": f"https://huggingface.co/{name}"}, 409)
            return
        self.hub.put(name, {}, private=asked.get("private") or asked.get("visibility") == "private")
        self._json({"url": f"https://huggingface.co/{name}"})

    def _of_model(self, name: str, rest: list[str], body: bytes) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        kind, revision = (rest[0], rest[1]) if rest else ("info", "main")
        commit = repository.head if revision == "main" else revision
        if commit not in repository.commits:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif kind in ("info", "revision"):
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            self._json({"id": name, "sha": commit, "private": repository.private, "siblings": siblings})
        elif kind == "tree":
            files = repository.commits[commit].items()
            self._json([{"type": "file", "path": f, "size": len(c), "oid": _oid(c)} for f, c in files])
        elif kind == "preupload":
            asked = json.loads(body)["files"]
            known = ({"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked)
            self._json({"files": list(known)})
        elif kind == "commit":
            self._commit(name, repository, body)

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        files = dict(repository.files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", repository.head) != repository.head:
                self._json({"error": "a commit has happened since"}, 412)
                return
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        self._json(
            {"success": True, "commitOid": sha, "commitUrl": f"https://huggingface.co/{name}/commit/{sha}"}
        )

    def _file(self, name: str, revision: str, file: str) -> None:
        repository = self.hub.repositories[name]
        commit = repository.head if revision == "main" else revision
        content = repository.commits[commit].get(file)
        if content is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit}
        self._send(200, content, headers, cut=file == self.hub.cut and self.command == "GET")

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode())

    def _send(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True


def _oid(content: bytes) -> str:
    """Name of a file's content, as git makes it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
