"""A web server of files, with ranges, that counts what it is asked and fails when told to."""

import threading
import time
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Store:
    """Files at ``url``.

    Attributes:
        folder: the files.
        asked: requests by method and path.
        latency: seconds that each answer takes.
        failing: so many of the next requests are answered with ``status``.
        ranges: whether ranges are honoured.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: Counter[str] = Counter()
        self.latency = 0.0
        self.failing = 0
        self.status = 503
        self.ranges = True
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Refuse connections from here on."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a batch comes at once

    def __init__(self, store: Store) -> None:
        self.store = store
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a worker that ended in the middle of an answer


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        store = self.server.store
        self.directory = str(store.folder)
        store.asked[f"{self.command} {self.path}"] += 1
        time.sleep(store.latency)
        path = Path(self.translate_path(self.path))
        if store.failing > 0:
            store.failing -= 1
            self._send(store.status, b"", {})
        elif path.is_dir():  # the listing of the base class
            super().do_GET() if self.command == "GET" else super().do_HEAD()
        elif path.is_file():
            status = path.stat()
            headers = {"ETag": f'"{status.st_mtime_ns:x}-{status.st_size:x}"'}
            wanted = self.headers.get("Range") if store.ranges else None
            first, last = 0, status.st_size - 1
            if wanted is not None:
                first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            with path.open("rb") as file:
                file.seek(first)
                data = file.read(last + 1 - first)
            self._send(200 if wanted is None else 206, data, headers)
        else:
            self._send(404, b"", {})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
