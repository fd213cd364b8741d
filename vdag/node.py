"""`Node`: everything that a node runs, in one process beside its workers.

    sampler, limits   the state of the machine, and the control groups of the workers
    exchange          a thread, with the shared memory
    workers           processes, looked after by a thread
    staff             what is known of the workers
    service           the app of :5500, in the event loop of the main thread

They are opened in this order and closed in the reverse one. systemd is told when the node serves,
and from time to time that it still does; it stays silent when the exchange has failed, so that the
node is started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from vdag.config import Config, is_loopback
from vdag.control.cluster import Alone, NodeView, ServiceView
from vdag.control.execution import Execution
from vdag.control.limits import Limits
from vdag.control.replies import Place
from vdag.control.resources import Sampler
from vdag.control.service import Parts, create_app
from vdag.control.staff import Staff
from vdag.errors import ConfigError
from vdag.tasks.modules import load_module
from vdag.transport.exchange import Exchange
from vdag.workers import WorkerPool

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Node", "notify_systemd", "run"]

logger = logging.getLogger(__name__)

#: Replies that are being written when the node stops may take so long.
GRACE_S = 10
BACKLOG = 2048
#: Longest time between two looks at whether the node is well.
WATCH_INTERVAL_S = 10.0


class Node:
    """A node of role `service`; closed by `close` or a `with` block.

        with Node(load_config(Path("node.toml"))) as node:
            node.serve()

    Its workers have loaded their models, and its port is bound, when the constructor returns.

    Args:
        config: all its settings.

    Raises:
        ConfigError: a setting does not fit this machine: a port is taken, a model is missing.
        VdagError: a worker could not load its task, or shared memory cannot be had.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        with ExitStack() as stack:
            self._socket = stack.enter_context(_bind(config.service.host, config.service.port))
            for path in config.service.modules:
                load_module(path)
            sampler = stack.enter_context(Sampler(config.node.sample_interval_s))
            limits = stack.enter_context(Limits(mode=config.node.limits))
            exchange = stack.enter_context(_open_exchange(config, stack))
            pool = stack.enter_context(WorkerPool(exchange, modules=config.service.modules))
            self._start_workers(exchange, pool)
            tasks = config.service.tasks
            self._staff = stack.enter_context(
                Staff(
                    exchange,
                    pool,
                    sampler,
                    limits,
                    options={name: task.options for name, task in tasks.items()},
                    models=config.service.models,
                )
            )
            self._staff.refresh()
            self._sampler = sampler
            address = config.node.address or _address_of(config.service.host)
            self._place = Place(address, config.node.role)
            parts = Parts(
                config.service,
                Execution(exchange, max_in_flight=config.service.max_in_flight),
                self._staff,
                Alone(self._view),
                self._place,
            )
            settings = uvicorn.Config(
                create_app(parts),
                log_config=None,
                access_log=False,
                ws="none",
                lifespan="on",
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=GRACE_S,
            )
            self._started = threading.Event()
            self._server = _Server(settings, self._started)
            self._stack = stack.pop_all()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def staff(self) -> Staff:
        """Its workers."""
        return self._staff

    def serve(self) -> None:
        """Answer requests until `stop` is called; in the main thread also until a signal comes.

        SIGINT and SIGTERM end it in good order: what is under way is answered first.
        """
        asyncio.run(self._serve())

    def wait_started(self, timeout_s: float) -> bool:
        """Wait until requests are answered; return whether they are within `timeout_s`."""
        return self._started.wait(timeout_s)

    def stop(self) -> None:
        """End `serve`, from any thread."""
        self._server.should_exit = True

    def close(self) -> None:
        """Stop the workers, lift every limit, and give everything back."""
        notify_systemd("STOPPING=1")
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start_workers(self, exchange: Exchange, pool: WorkerPool) -> None:
        tasks = self._config.service.tasks
        for name, task in tasks.items():
            exchange.open_task(name, policy=task.policy, limit=task.queue)
            if task.workers:
                pool.add(name, task.options, count=task.workers, max_batch=task.max_batch)
        for name in tasks:
            pool.wait_ready(name, self._config.node.start_timeout_s)

    async def _serve(self) -> None:
        watcher = asyncio.ensure_future(self._watch())
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            watcher.cancel()

    async def _watch(self) -> None:
        """Tell systemd that the node serves, and that it still does."""
        limit_us = os.environ.get("WATCHDOG_USEC", "")
        interval_s = WATCH_INTERVAL_S
        if limit_us.isdecimal() and int(limit_us):
            interval_s = min(interval_s, int(limit_us) / 2e6)
        while not self._server.started:
            await asyncio.sleep(0.05)
        logger.info("serving on http://%s:%d", self._config.service.host, self.port)
        notify_systemd(f"READY=1\nSTATUS=serving on port {self.port}")
        while True:
            if not self._staff.fault:
                notify_systemd("WATCHDOG=1")
            await asyncio.sleep(interval_s)

    def _view(self) -> NodeView:
        """Return how this node is now."""
        state, counts = self._sampler.latest(), self._staff.counts()
        services = {}
        for task in self._staff.tasks:
            cpu, memory = self._staff.limit_of(task)
            count = counts[task].wanted if task in counts else 0
            services[task] = ServiceView(count, cpu, memory)
        return NodeView(
            self._place.address,
            self.port,
            self._config.node.role,
            state.to_dict(),
            state.to_summary(),
            services,
        )


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it has started."""

    def __init__(self, config: uvicorn.Config, started: threading.Event) -> None:
        super().__init__(config)
        self._started_event = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        self._started_event.set()


def notify_systemd(text: str) -> None:
    """Send a message to systemd (sd_notify(3)); without one, or if it does not listen, none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # a name in the abstract namespace, unix(7)
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        try:
            channel.sendto(text.encode(), address)
        except OSError as err:
            logger.debug("systemd does not listen: %s", err)


def run(config: Config) -> None:
    """Run a node in the main thread until SIGINT or SIGTERM, also while it is still starting.

    Raises:
        VdagError: as of `Node`.
    """
    with _signals(), contextlib.suppress(KeyboardInterrupt), Node(config) as node:
        node.serve()


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn the first SIGTERM or SIGINT into a KeyboardInterrupt; the next must not stop the end."""
    is_first = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as err:
        raise ConfigError(f"service.host {host}: {err.strerror}") from err
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as err:
        listener.close()
        raise ConfigError(f"port {port} of {host} cannot be had: {err.strerror}") from err
    return listener


def _open_exchange(config: Config, stack: ExitStack) -> Exchange:
    folder = config.node.folder
    if folder is None:
        # Paths of sockets are short: the folder of the session is, TMPDIR may not be.
        root = os.environ.get("XDG_RUNTIME_DIR")
        usable = root if root and os.access(root, os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix="vdag-", dir=usable))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    classes = [(width * height * 3, count) for width, height, count in config.service.slots]
    return Exchange(folder, node=config.node.name, classes=classes)


def _address_of(host: str) -> str:
    """Return under which address others reach a service that listens on `host`."""
    if is_loopback(host):
        return "127.0.0.1" if host == "localhost" else host
    if host not in ("0.0.0.0", "::"):
        return host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Nothing is sent: connecting a datagram socket asks the routing table for our own address.
    beyond = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((beyond, 9))
            address: str = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    return address
