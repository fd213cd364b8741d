"""Requests to execute tasks, the busiest of :5500: from their bodies to the bodies of the replies.

`Express` answers them before the app does: routing, dependencies, tracing and response classes,
which the other endpoints are made with, would cost more than everything else that is done about a
request for a small task. The app documents the same paths, and answers them by the same
`Executing` should a request ever get that far.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from vdag.control.http.faults import refusal
from vdag.control.http.gate import BodyRoom, Gate
from vdag.control.service import replies, schemas
from vdag.control.service.images import Bounds
from vdag.control.service.schemas import JSON, MSGPACK, Order, RequestReader
from vdag.errors import ConfigError, VdagError
from vdag.tasks import find

if TYPE_CHECKING:
    from vdag.config import ServiceConfig
    from vdag.control.service.execution import Answer, Execution
    from vdag.control.service.exposition import Metrics
    from vdag.control.service.staff import Staff

__all__ = ["UNREGISTERED", "WAYS", "Executing", "Express", "Reply", "Way", "media_type"]

#: Larger bodies are read in a thread, but for those that are a picture as a file.
INLINE_NBYTES = 16_384
#: As documented, with status 200.
UNREGISTERED = msgspec.json.encode({"error": "unregistered services", "status": 1})

Headers = Iterable[tuple[bytes, bytes]]


class Way(NamedTuple):
    """How one of the paths executes a task.

    Attributes:
        is_list: on each picture of `image_list`.
        pictures: form of the pictures in the reply, empty for the usual.
    """

    is_list: bool = False
    pictures: str = ""


#: First part of a path, behind which the task stands, to what it means.
WAYS: Mapping[str, Way] = {
    "execute_task": Way(),
    "execute_task_new": Way(),
    "service": Way(),
    "execute_task_old": Way(pictures="none"),
    "concurrent_execute_task_new": Way(is_list=True),
}


class Reply(NamedTuple):
    """The parts of a reply that differ."""

    status: int
    body: bytes
    kind: str = JSON


class Executing:
    """Answers requests to execute the tasks of a node; for one event loop.

    Args:
        config: of the service.
        execution: runs the works.
        staff: knows the processes.
        room: for the bodies.
        place: what callers are told about where they are.
        metrics: count each request.
    """

    def __init__(
        self,
        config: ServiceConfig,
        *,
        execution: Execution,
        staff: Staff,
        room: BodyRoom,
        place: replies.Place,
        metrics: Metrics,
    ) -> None:
        self._execution, self._staff, self._room = execution, staff, room
        self._place, self._metrics, self._deadline_s = place, metrics, config.deadline_s
        bounds = Bounds(config.max_pixels, config.max_pictures, config.max_body_nbytes)
        self._readers = {
            task: RequestReader(task, find(task).signature, bounds) for task in staff.tasks
        }

    async def answer(self, scope: Scope, receive: Receive, task: str, way: Way) -> Reply:
        """Answer a request.

        Args:
            scope: of the request, as ASGI has it.
            receive: likewise.
            task: what the path says.
            way: likewise.

        Raises:
            VdagError: the request is refused, or has failed.
            HTTPException: likewise.
        """
        start_ns = time.monotonic_ns()
        reader = self._readers.get(task)
        if reader is None:
            return Reply(200, UNREGISTERED)
        status = 500
        try:
            reply = await self._answer(scope, receive, reader, way, start_ns)
            status = reply.status
        except VdagError as err:
            status = err.status
            raise
        except HTTPException as err:
            status = err.status_code
            raise
        finally:
            self._metrics.observe(task, status, (time.monotonic_ns() - start_ns) / 1e9)
        return reply

    async def _answer(
        self, scope: Scope, receive: Receive, reader: RequestReader, way: Way, start_ns: int
    ) -> Reply:
        headers: Headers = scope["headers"]
        content_type, accepted, length = _headers(headers)
        kind = media_type(content_type, schemas.MEDIA_TYPES)
        is_binary = MSGPACK in accepted or (kind == MSGPACK and "*/*" in accepted)
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        form = replies.picture_form(query.get("pictures", way.pictures), is_binary=is_binary)
        timeout_s = self._timeout_s(query.get("deadline_s"))
        model = self._model(reader.task, query.get("model_id"))
        async with self._room.hold(length, receive) as body:
            order = await self._read(reader, body, content_type, way.is_list)
            if model is not None:
                works = [replace(work, model=model) for work in order.works]
                order = replace(order, works=works)
            answers = await self._execution.run_all(order.works, timeout_s)

        def write() -> bytes:
            return self._write(reader.task, order, answers, start_ns, form, is_binary=is_binary)

        is_slow = replies.has_pictures(answers, form)
        content = await self._execution.aside(write) if is_slow else write()
        return Reply(200, content, MSGPACK if is_binary else JSON)

    def _write(
        self,
        task: str,
        order: Order,
        answers: Sequence[Answer],
        start_ns: int,
        form: replies.PictureForm,
        *,
        is_binary: bool,
    ) -> bytes:
        states = [self._staff.process(task, answer.pid) for answer in answers]
        found = replies.compose(
            order,
            answers,
            states,
            all_latency_s=(time.monotonic_ns() - start_ns) / 1e9,
            place=self._place,
            form=form,
        )
        return msgspec.msgpack.encode(found) if is_binary else msgspec.json.encode(found)

    async def _read(
        self, reader: RequestReader, body: bytes, content_type: str, is_list: bool
    ) -> Order:
        if len(body) <= INLINE_NBYTES or content_type.startswith("image/"):
            return reader.read(body, content_type, is_list=is_list)
        return await self._execution.aside(lambda: reader.read(body, content_type, is_list=is_list))

    def _model(self, task: str, text: str | None) -> int | None:
        if text is None:
            return None
        known = self._staff.models(task)
        for model in known:
            if text == str(model):
                return model
        raise ConfigError(
            f"model_id of {task} is {text[:80]!r}, expected of {', '.join(map(str, known))}"
        )

    def _timeout_s(self, text: str | None) -> float:
        if text is None:
            return self._deadline_s
        try:
            wanted = float(text)
        except ValueError:
            wanted = 0.0
        if not 0.001 <= wanted <= self._deadline_s:
            raise ConfigError(
                f"deadline_s is {text[:80]!r}, expected 0.001 to {self._deadline_s:g}"
            )
        return wanted


class Express:
    """An ASGI app: answers what `executing` can, and passes on everything else.

    Args:
        app: what is behind, with a gate of its own.
        executing: answers.
        token: as of `Gate`.
        cors: likewise.
    """

    def __init__(self, app: ASGIApp, executing: Executing, *, token: str, cors: bool) -> None:
        self._app, self._executing = app, executing
        self._gate = Gate(self._execute, token=token, cors=cors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        app = self._app if _way(scope) is None else self._gate
        await app(scope, receive, send)

    async def _execute(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _way(scope)
        assert found is not None, "only such requests come here"
        way, task = found
        try:
            reply = await self._executing.answer(scope, receive, task, way)
        except (VdagError, HTTPException) as err:
            await refusal(err)(scope, receive, send)
            return
        headers = [
            (b"content-type", reply.kind.encode()),
            (b"content-length", str(len(reply.body)).encode()),
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


def media_type(content_type: str, taken: Sequence[str]) -> str:
    """Return which of some media types a body is of.

    Raises:
        HTTPException: 415, it is none of them.
    """
    kind = content_type.partition(";")[0].strip().lower()
    known = schemas.ALIASES.get(kind, kind)
    if known not in taken:
        raise HTTPException(415, f"content-type {kind[:80]} is none of {', '.join(taken)}")
    return known


def _way(scope: Scope) -> tuple[Way, str] | None:
    """Return how to execute which task; None if a request wants something else."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    parts = scope["path"].split("/")
    if len(parts) != 3 or parts[0] or parts[1] not in WAYS or not parts[2]:
        return None
    return WAYS[parts[1]], parts[2]


def _headers(headers: Headers) -> tuple[str, str, str]:
    """Return the type of the body, what may come back, and the announced length."""
    kind, accepted, length = b"", b"*/*", b"0"
    for name, value in headers:
        if name == b"content-type":
            kind = value
        elif name == b"accept":
            accepted = value
        elif name == b"content-length":
            length = value
    return kind.decode("latin-1"), accepted.decode("latin-1"), length.decode("latin-1")
