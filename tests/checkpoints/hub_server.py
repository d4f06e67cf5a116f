"""A local hub server with the part of the protocol that downloading uses, over folders of files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Hub:
    """The server's content, its behaviour, and the requests that it got."""

    repos: dict[str, tuple[str, Path]] = field(default_factory=dict)  # commit, folder
    token: str | None = None  # without it, repositories do not exist (401), as on the hub
    gated: bool = False  # with a token, still 403
    broken: int | None = None  # answer everything with this status
    silent: bool = False  # accept every connection and never answer
    cut_after: int = 0  # bytes of a file after which the connection breaks, for the first `cuts`
    cuts: int = 0
    requests: list[str] = field(default_factory=list)  # "GET /path", in order
    ranges: list[str] = field(default_factory=list)  # the Range headers that came
    url: str = ""

    def files(self) -> list[str]:
        """The names of the files sent, in order."""
        sent = [r.rpartition("/")[2] for r in self.requests if re.match(r"GET /.+/resolve/", r)]
        return sent


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Run `hub` on a free port within this context, and set its `url`."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            if hub.silent:
                # Not quite never: a client that waits forever should fail its test, not hang it.
                released.wait(10)
                self.close_connection = True
                return None
            if hub.broken is not None:
                return self._fail(hub.broken, "", "The hub is down")
            info = re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path)
            file = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path)
            match = info or file
            repo = match.group(1) if match else ""
            asked = (match.group(2) if match else None) or "main"
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._fail(401, "RepoNotFound", "Invalid username or password.")
            if hub.gated:
                return self._fail(403, "GatedRepo", "Access to this model is restricted.")
            if repo not in hub.repos:
                return self._fail(404, "RepoNotFound", "Repository not found")
            commit, folder = hub.repos[repo]
            if asked not in ("main", commit):
                return self._fail(404, "RevisionNotFound", f"Invalid rev id: {asked}")
            if info:
                names = sorted(path.name for path in folder.iterdir())
                answer = {
                    "id": repo,
                    "modelId": repo,
                    "sha": commit,
                    "siblings": [{"rfilename": name} for name in names],
                }
                return self._send(200, json.dumps(answer).encode(), {}, body)
            assert file is not None
            source = folder / file.group(3)
            if not source.is_file():
                return self._fail(404, "EntryNotFound", "Entry not found")
            content = source.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if not (wanted and body):
                return self._send(200, content, headers, body)
            hub.ranges.append(self.headers["Range"])
            start = int(wanted.group(1))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._send(206, content[start:], headers, body)

        def _fail(self, status: int, code: str, message: str) -> None:
            headers = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
            self._send(status, json.dumps({"error": message}).encode(), headers, True)

        def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not body or self.command == "HEAD":
                return
            is_file = "ETag" in headers
            if is_file and hub.cuts > 0 and len(content) > hub.cut_after:
                hub.cuts -= 1
                self.wfile.write(content[: hub.cut_after])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()
