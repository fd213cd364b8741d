"""An HTTP server as programs of the first system have it: an exception is a page of status 500."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAIT_S = 20.0

Document = dict[str, Any]
Handler = Callable[[str, str, Any], tuple[int, Any]]


class Broken(AssertionError):
    """The real program would have ended here."""


class Server:
    """An HTTP server that hands each request to a function, and notes all of them."""

    def __init__(self, handle: Handler, host: str = "127.0.0.1") -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self._connections: list[socket.socket] = []
        outer = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                self._answer(json.loads(self.rfile.read(length)))

            def _answer(self, body: Any) -> None:
                outer.requests.append((self.command, self.path, body))
                try:
                    status, content = handle(self.command, self.path, body)
                    data, kind = json.dumps(content, sort_keys=True).encode(), "application/json"
                except (KeyError, AssertionError, TypeError):  # as Flask answers an exception
                    status, data, kind = 500, b"<!doctype html>", "text/html"
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def process_request(self, request: Any, client_address: Any) -> None:
                outer._connections.append(request)
                super().process_request(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the caller has left

        self._server = Quiet((host, 0), Answering)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="vdag-test-reference"
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(WAIT_S)
        self._server.server_close()
        for connection in self._connections:  # a process that ends has none left either
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
