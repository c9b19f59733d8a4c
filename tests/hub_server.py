"""The hub's protocol on loopback, as far as a client that gets models uses it."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TypeVar
from urllib.parse import unquote

from tests.loopback import loopback

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000
"""Bytes from which a file is stored by its sha256, elsewhere."""


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repos: dict[str, dict[str, bytes]]
    asked: list[str]
    authorised: list[str | None]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.asked.append(f"{self.command} {path}")
        self.authorised.append(self.headers.get("Authorization"))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
            if repo not in self.repos:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if revision not in ("main", COMMIT):
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return self.answer(200, json.dumps(told(repo, self.repos[repo])).encode(), {"Content-Type": "application/json"})
        if parts[2:3] == ["resolve"]:
            content = self.repos.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
            if content is None or parts[3] != COMMIT:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            if len(content) >= LARGE:
                return self.answer(302, b"", {"Location": f"/cdn/{'/'.join(parts[:2])}/{'/'.join(parts[4:])}"})
            return self.answer(200, content, {})
        if parts[0] == "cdn":
            content = self.repos["/".join(parts[1:3])]["/".join(parts[3:])]
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            extra = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            return self.answer(206 if start else 200, content[start:], extra)
        return self.answer(404, b"", {})

    def do_POST(self) -> None:
        """A repository, which of its files go where (all into the commit), and the commit: lines of JSON."""
        path, length = unquote(self.path.partition("?")[0]), int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self.chunks()
        self.asked.append(f"POST {path}")
        self.authorised.append(self.headers.get("Authorization"))
        if self.headers.get("Authorization") != "Bearer hf_writer":
            return self.answer(403, b'{"error": "this token may not write"}', {})
        parts = path.strip("/").split("/")
        host = f"http://{self.headers['Host']}"
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.repos.setdefault(repo, {})
            return self.answer_json({"url": f"{host}/{repo}", "name": repo, "id": repo})
        if parts == ["api", "validate-yaml"]:  # the card's front matter
            return self.answer_json({"errors": [], "warnings": []})
        repo = "/".join(parts[2:4])
        if parts[4] == "preupload":
            return self.answer_json({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]})
        if parts[4] == "commit":
            for line in filter(None, body.split(b"\n")):
                entry = json.loads(line)
                if entry["key"] == "file":
                    assert entry["value"]["encoding"] == "base64"
                    self.repos[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return self.answer_json({"commitUrl": f"{host}/{repo}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
        return self.answer(404, b"{}", {})

    def chunks(self) -> bytes:
        """A body of chunks, as clients send what they do not know the length of."""
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer_json(self, tree: dict[str, object]) -> None:
        self.answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})

    def answer(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


Kind = TypeVar("Kind", bound=HubHandler)


def told(repo: str, files: dict[str, bytes]) -> dict[str, object]:
    """What ``/api/models/REPO/revision/REV?blobs=true`` says."""
    siblings = []
    for path, content in files.items():
        entry: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
        if len(content) >= LARGE:
            entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        siblings.append(entry)
    return {"_id": "0" * 24, "id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}


@contextmanager
def hub(repos: dict[str, dict[str, bytes]], kind: type[Kind] = HubHandler) -> Iterator[tuple[str, type[Kind]]]:  # type: ignore[assignment]
    """Its address, and what it was asked.

    Args:
        repos: files by path, by repository.
        kind: of handler.
    """
    handler = type("Bound", (kind,), {"repos": repos, "asked": [], "authorised": []})
    with loopback(handler) as url:
        yield url, handler
