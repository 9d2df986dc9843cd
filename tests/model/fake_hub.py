"""A hub on this machine: one repository's files over HTTP, by the routes that its library asks."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_FILE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)(/(?P<what>revision|tree)/[^/?]+)?")


class FakeHub:
    """Serves ``repositories``, which tests change as they like.

    Attributes:
        repositories: Files by path, by ``owner/name``; each repository has one commit at a time,
            which its files decide.
        asked: Method and path of every request.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def commit(self, repository: str) -> str:
        """40 hex digits, others whenever a file is."""
        digest = hashlib.sha1()
        for path, data in sorted(self.repositories[repository].items()):
            digest.update(path.encode() + b"\0" + data)
        return digest.hexdigest()

    def downloads(self, file: str) -> int:
        """How often a file's content was sent."""
        return sum(method == "GET" and path.endswith(file) for method, path in self.asked)

    def _answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if (match := _FILE.fullmatch(path)) is not None:
            files = self.repositories.get(match["repository"])
            if files is None:
                return 404, b"", {"X-Error-Code": "RepoNotFound"}
            if match["file"] not in files:
                return 404, b"", {"X-Error-Code": "EntryNotFound"}
            data = files[match["file"]]
            etag = hashlib.sha256(data).hexdigest()
            commit = self.commit(match["repository"])
            return 200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
        match = _API.match(path)
        if match is None or match["repository"] not in self.repositories:
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        files = self.repositories[match["repository"]]
        body: object = {"id": match["repository"], "sha": self.commit(match["repository"])}
        if match["what"] == "tree":
            body = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
                for name, data in files.items()
            ]
        return 200, json.dumps(body).encode(), {"Content-Type": "application/json"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append((self.command, self.path))
                status, body, headers = outer._answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
