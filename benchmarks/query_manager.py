"""A query manager in a process of its own, with the real controller; ends when its stdin does."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import tempfile
import threading
from pathlib import Path

import uvicorn

from vdag.control.controller import Controller, ControllerSettings
from vdag.control.queries import Parts, create_app
from vdag.control.records import Store


async def serve(parts: Parts, listener: socket.socket) -> None:
    settings = uvicorn.Config(create_app(parts), log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(settings)

    def wait_end() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=wait_end, daemon=True).start()
    await server.serve(sockets=[listener])


def main() -> None:
    """Serve until stdin ends, then print the largest memory in KiB."""
    # asyncio turns Nagle's algorithm off only where the protocol is named.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(Path(folder) / "records.sqlite") as store,
        Controller(store, ControllerSettings(channel="tcp://127.0.0.1:0")) as controller,
    ):
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        asyncio.run(serve(Parts(controller, store), listener))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


if __name__ == "__main__":
    main()
