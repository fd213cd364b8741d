"""`MjpegServer`: the newest picture to whoever looks, as `multipart/x-mixed-replace` over HTTP.

Every viewer has a thread, and gets the newest picture when it has taken the one before: a slow one
sees fewer pictures, and nobody waits for it. Without viewers nothing is encoded.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vdag import _native as native
from vdag.errors import SinkError
from vdag.frame import UInt8Image

__all__ = ["MAX_VIEWERS", "MjpegServer"]

logger = logging.getLogger(__name__)

MAX_VIEWERS = 8
QUALITY = 80
#: For a viewer to send its request, and to take a part of a picture.
SOCKET_TIMEOUT_S = 5.0
#: A viewer is told the same picture again, so that it is noticed when it has gone.
ALIVE_S = 2.0
END_TIMEOUT_S = 10.0
_HEAD = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"


class MjpegServer:
    """See above.

    Args:
        host: address to listen at.
        port: likewise; 0 for any that is free.

    Attributes:
        address: where browsers find the pictures.

    Raises:
        SinkError: it cannot be bound.
    """

    def __init__(self, host: str, port: int) -> None:
        self._changed = threading.Condition()
        self._pixels: UInt8Image | None = None
        self._jpeg, self._number, self._coded = b"", 0, 0
        self._viewers = 0
        self._is_closing = False
        try:
            self._server = _Server((host, port), _Viewer, self)
        except (OSError, OverflowError) as err:
            reason = getattr(err, "strerror", None) or err
            raise SinkError(f"render: {host}:{port} cannot be bound: {reason}") from err
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self._server.server_address[1]}/"
        logger.info("pictures are at %s", self.address)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="vdag-render", daemon=True
        )
        self._thread.start()

    def show(self, pixels: UInt8Image, seq: int) -> None:
        """Show a picture, uint8 `(H, W, 3)` BGR; it is copied if somebody looks."""
        with self._changed:
            if self._viewers or not self._number:
                self._pixels = pixels.copy()
                self._number += 1
                self._changed.notify_all()

    def close(self) -> None:
        """End all replies, and listen no more."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()  # waits for the viewers' threads
        self._thread.join(END_TIMEOUT_S)

    def enter(self) -> bool:
        """Count a viewer, if there is room."""
        with self._changed:
            if self._viewers >= MAX_VIEWERS or self._is_closing:
                return False
            self._viewers += 1
            return True

    def leave(self) -> None:
        """Count a viewer no more."""
        with self._changed:
            self._viewers -= 1

    def newer(self, number: int) -> tuple[int, bytes] | None:
        """Wait for a picture newer than `number`; return it as JPEG, None at the end.

        After `ALIVE_S` it is the one that there is, none of which has no bytes.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or self._number > number, ALIVE_S)
            if self._is_closing:
                return None
            if self._pixels is not None and self._coded != self._number:
                self._jpeg = native.jpeg.encode(self._pixels, quality=QUALITY)
                self._coded = self._number
            return self._number, self._jpeg


class _Server(ThreadingHTTPServer):
    """The listening socket; a viewer's thread ends with `close` or soon after its viewer."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, address: tuple[str, int], viewer: Any, pictures: MjpegServer) -> None:
        self.pictures = pictures
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, viewer)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note what went wrong with a viewer; the others go on."""
        logger.debug("viewer %s", client_address, exc_info=True)


class _Viewer(BaseHTTPRequestHandler):
    """One who looks."""

    server: _Server
    timeout = SOCKET_TIMEOUT_S

    def do_GET(self) -> None:
        """Send pictures until he goes."""
        pictures = self.server.pictures
        if not pictures.enter():
            self.send_error(503, f"{MAX_VIEWERS} viewers are the limit")
            return
        try:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            with contextlib.suppress(OSError):
                self._send(pictures)
        finally:
            pictures.leave()
        self.close_connection = True

    def _send(self, pictures: MjpegServer) -> None:
        number = 0
        while (found := pictures.newer(number)) is not None:
            number, jpeg = found
            if jpeg:
                self.wfile.write(_HEAD % len(jpeg) + jpeg + b"\r\n")
        self.wfile.write(b"--frame--\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # of the base class
        """Note a request where it is of interest."""
        logger.debug("%s: %s", self.address_string(), format % args)
