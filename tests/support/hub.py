"""A Hugging Face Hub on loopback: the endpoints that the Hub's clients use to read and upload.

    with serve(folder) as hub:
        subprocess.run(command, env=os.environ | hub.environment(tmp_path / "home"))

It serves `folder/models/<org>/<name>/...` and `folder/datasets/<org>/<name>/...`. The revision is
a hash of the files, so that clients cache as they do with the real Hub.
"""

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
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)(?P<rest>/.*)?")
# The branch to which the Hub converts data sets that are scripts.
CONVERTED = "refs/convert/parquet"
REVISION = rf"(?P<revision>{CONVERTED}|[^/]+)"
INFO = re.compile(rf"(?:/revision/{REVISION})?")
TREE = re.compile(rf"/tree/{REVISION}(?:/(?P<under>.*))?")
PATHS = re.compile(rf"/paths-info/{REVISION}")
UPLOAD = re.compile(r"/(preupload|commit)/[^/]+")
FILE = re.compile(rf"/(?P<dataset>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/{REVISION}/(?P<path>.+)")


class NotFound(Exception):
    """What the Hub says in `X-Error-Code`: RepoNotFound, RevisionNotFound or EntryNotFound."""


@dataclass
class Hub:
    """A running server: its address, its folder, and what was asked of it."""

    url: str
    folder: Path
    requests: list[str] = field(default_factory=list)

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that point the Hub's clients here and keep all their files under `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }


@dataclass(frozen=True)
class Repository:
    """One folder of files."""

    folder: Path
    id: str

    @property
    def paths(self) -> list[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    @property
    def commit(self) -> str:
        parts = [f"{path}:{self.oid(path)}" for path in self.paths]
        return hashlib.sha1("\n".join(parts).encode()).hexdigest()

    def read(self, path: str) -> bytes:
        if path not in self.paths:
            raise NotFound("EntryNotFound")
        return (self.folder / path).read_bytes()

    def oid(self, path: str) -> str:
        return hashlib.sha1(self.read(path)).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        if path in self.paths:
            return {
                "type": "file",
                "path": path,
                "oid": self.oid(path),
                "size": len(self.read(path)),
            }
        if any(name.startswith(f"{path}/") for name in self.paths):
            return {"type": "directory", "path": path, "oid": hashlib.sha1(b"").hexdigest()}
        raise NotFound("EntryNotFound")

    def tree(self, under: str, recursive: bool) -> list[dict[str, Any]]:
        names = set()
        for path in self.paths:
            if not under or path.startswith(f"{under}/"):
                parts = path.split("/")
                depth = len(under.split("/")) + 1 if under else 1
                names |= {"/".join(parts[:end]) for end in range(depth, len(parts) + 1)}
        entries = [self.entry(name) for name in sorted(names)]
        prefix = under.count("/") + 1 if under else 0
        return [entry for entry in entries if recursive or entry["path"].count("/") == prefix]

    def info(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "sha": self.commit,
            "lastModified": "2025-01-01T00:00:00.000Z",
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "siblings": [{"rfilename": path} for path in self.paths],
        }


class Handler(BaseHTTPRequestHandler):
    """GET, HEAD and POST of one connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.hub.requests.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        path = unquote(url.path)
        try:
            if match := FILE.fullmatch(path):
                kind = "datasets" if match["dataset"] else "models"
                self.file(self.repository(kind, match["id"], match["revision"]), match["path"])
            elif path in ("/api/repos/create", "/api/validate-yaml"):
                self.json(self.create(path, json.loads(body)))
            elif match := API.fullmatch(path):
                if UPLOAD.fullmatch(match["rest"] or ""):
                    return self.json(self.upload(match, body))
                self.json(self.api(match, parse_qs(url.query), parse_qs(body)))
            else:
                raise NotFound("EntryNotFound")
        except NotFound as error:
            self.json({"error": str(error)}, status=404, headers={"X-Error-Code": str(error)})

    do_HEAD = do_POST = do_GET

    def api(self, match: re.Match[str], query: dict[str, Any], form: dict[str, Any]) -> Any:
        rest = match["rest"] or ""
        if found := INFO.fullmatch(rest):
            return self.repository(match["kind"], match["id"], found["revision"]).info()
        if found := TREE.fullmatch(rest):
            repository = self.repository(match["kind"], match["id"], found["revision"])
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            return repository.tree(found["under"] or "", recursive)
        if found := PATHS.fullmatch(rest):
            repository = self.repository(match["kind"], match["id"], found["revision"])
            entries = []
            for path in form.get("paths", []):
                with contextlib.suppress(NotFound):  # the Hub leaves unknown paths out
                    entries.append(repository.entry(path.strip("/")))
            return entries
        raise NotFound("EntryNotFound")

    def create(self, path: str, values: dict[str, Any]) -> dict[str, Any]:
        """Makes a repository, or finds a model card's header valid."""
        if path != "/api/repos/create":
            return {"errors": [], "warnings": []}
        name = f"{values['organization']}/{values['name']}"
        (self.hub.folder / "models" / name).mkdir(parents=True, exist_ok=True)
        return {"url": f"{self.hub.url}/{name}"}

    def upload(self, match: re.Match[str], body: str) -> dict[str, Any]:
        """Says that every file comes in the commit itself; then writes what the commit holds."""
        if "preupload" in match["rest"]:
            files = [file["path"] for file in json.loads(body)["files"]]
            kind = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": path, **kind} for path in files]}
        repository = self.repository(match["kind"], match["id"], None)
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                file = repository.folder / line["value"]["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        url = f"{self.hub.url}/{match['id']}/commit/{repository.commit}"
        return {"commitUrl": url, "commitOid": repository.commit}

    def repository(self, kind: str, name: str, revision: str | None) -> Repository:
        folder = self.hub.folder / kind / name
        if ".." in name or not folder.is_dir():
            raise NotFound("RepoNotFound")
        repository = Repository(folder, name)
        if revision not in (None, "main", CONVERTED, repository.commit):
            raise NotFound("RevisionNotFound")
        return repository

    def file(self, repository: Repository, path: str) -> None:
        content, oid = repository.read(path), repository.oid(path)
        headers = {"ETag": f'"{oid}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            return self.send(content, 200, headers)
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self.send(content[start : end + 1], 206, headers)

    def json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self.send(json.dumps(value).encode(), status, kind | (headers or {}))

    def send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent; `Hub.requests` is the log."""


@contextlib.contextmanager
def serve(folder: Path, kind: type[Handler] = Handler) -> Iterator[Hub]:
    """Serve `folder` on a free port of 127.0.0.1 until the block ends."""
    handler = type("HubHandler", (kind,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", folder)
        handler.hub = hub
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
