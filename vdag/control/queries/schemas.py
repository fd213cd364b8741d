"""What bodies are read into, whoever writes them.

Clients of all versions are read: unknown fields are skipped, numbers may come as text where some
write them so, `NaN` is taken for null as browsers and Python write one or the other. Sizes are
checked before objects are made: of pictures, which nodes add to what they report, only the places
are noted.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw

from vdag.control.records.frames import PICTURES
from vdag.errors import ConfigError, PayloadTooLarge
from vdag.wording import rephrase

__all__ = [
    "Constrain",
    "Join",
    "Name",
    "Prefer",
    "Pull",
    "Schedule",
    "Submit",
    "SubmitJob",
    "SyncResult",
    "SyncRuntime",
    "read_body",
    "read_fields",
    "read_object",
    "read_value",
]

#: Bytes of a body without pictures; an object of Python is at most 20 times as large.
MAX_NBYTES = 1 << 20
#: Colons in a body: at least as many as keys, each of which costs an object before it is dropped.
#: Pictures have one in 900 characters.
MAX_COLONS = 100_000

_T = TypeVar("_T")
Document = dict[str, Any]
Text = Annotated[str, Meta(min_length=1, max_length=255)]
QueryId = Annotated[str, Meta(min_length=1, max_length=64)]
Pipeline = Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=64)]
VideoId = Annotated[int, Meta(ge=0, le=999_999_999)]


class Submit(msgspec.Struct, frozen=True):
    """Body of `submit_query`.

    Attributes:
        node_addr: of the node that owns the video.
        video_id: of that node's videos.
        pipeline: its tasks in order; `dag` says more.
        user_constraint: what results are to be like.
        dag: tasks, and where each of their inputs comes from.
        generator: of the frames, for a `dag` that names none.
        policy: name of the one that plans it.
        plan: that the policy `static` keeps to.
    """

    node_addr: Text
    video_id: VideoId
    pipeline: Pipeline | None = None
    user_constraint: Document | None = None
    dag: Document | None = None
    generator: Text | None = None
    policy: Annotated[str, Meta(max_length=255)] = ""
    plan: Document | None = None


class SubmitJob(Submit, frozen=True):
    """Body of `submit_job`, of the older documents.

    Attributes:
        unique_job_id: that somebody else has drawn; ours is another.
        job_uid: likewise.
    """

    unique_job_id: Annotated[str, Meta(max_length=64)] = ""
    job_uid: Annotated[str, Meta(max_length=64)] = ""


class Name(msgspec.Struct, frozen=True):
    """A query, by either of its names."""

    query_id: QueryId | None = None
    job_uid: QueryId | None = None

    @property
    def name(self) -> str:
        """The one that is there.

        Raises:
            ConfigError: there is neither.
        """
        found = self.query_id or self.job_uid
        if found is None:
            raise ConfigError("field query_id is missing")
        return found


class Constrain(Name, frozen=True, kw_only=True):
    """Body of `update_constraint`."""

    user_constraint: Document


class Prefer(Name, frozen=True, kw_only=True):
    """Body of `update_prev_plan`; what is left out stays as it is."""

    video_conf: Document | None = None
    flow_mapping: Document | None = None
    resource_limit: Document | None = None


class Schedule(Name, frozen=True, kw_only=True):
    """Body of the older `get_plan`, by which a node asks to be planned for."""

    last_plan_result: Document | None = None
    user_constraint: Document | None = None


class Join(msgspec.Struct, frozen=True):
    """Body of `join`; `node_port` may be text."""

    node_port: Annotated[int, Meta(ge=1, le=65535)] | Annotated[str, Meta(pattern=r"^\d{1,5}$")]
    video_id: VideoId
    video_type: Annotated[str, Meta(max_length=255)]
    node_ip: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:]{1,255}$")] | None = None


class Pull(msgspec.Struct, frozen=True):
    """Body of `get_jobs_info_and_jobs_plan`."""

    node_addr: Text
    bandwidth: dict[str, float | None] | None = None


class SyncResult(msgspec.Struct, frozen=True):
    """Body of `sync_result`."""

    job_uid: QueryId
    job_result: Raw


class SyncRuntime(msgspec.Struct, frozen=True):
    """Body of `sync_runtime`."""

    job_uid: QueryId
    job_runtime: Raw


_FIELDS: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])


def read_body(body: bytes, kind: type[_T], *, has_pictures: bool = False) -> _T:
    """Read a body.

    Args:
        body: all of it; `Raw` fields refer to it.
        kind: what it is to be.
        has_pictures: it may be as large as pictures are; what is in its `Raw` fields is not read.

    Raises:
        ConfigError: it is not JSON, or not of that kind; the message names the field.
        PayloadTooLarge: it exceeds what bodies of this kind may have.
    """
    if not has_pictures and len(body) > MAX_NBYTES:
        raise PayloadTooLarge(f"body of {len(body)} bytes exceeds {MAX_NBYTES}")
    if body.count(b":") > MAX_COLONS:
        raise PayloadTooLarge(f"body has more than {MAX_COLONS} fields")
    try:
        return msgspec.json.decode(_plain(body), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ConfigError(f"body is malformed: {rephrase(err)}") from err


def read_object(text: Raw | bytes, name: str) -> Document:
    """Read an object without the pictures in it and in its fields.

    Args:
        text: JSON that `read_body` has let pass.
        name: of the field that it is.

    Raises:
        ConfigError: it is no object.
        PayloadTooLarge: what is no picture exceeds `MAX_NBYTES`.
    """
    found: Document = {}
    left = MAX_NBYTES
    for key, value in read_fields(text, name).items():
        inner = None
        if bytes(memoryview(value)[:1]) == b"{":
            inner = read_fields(value, f"{name}.{key[:80]}")
        left -= sum(len(memoryview(item)) for item in (inner.values() if inner else [value]))
        if left < 0:
            raise PayloadTooLarge(f"field {name} exceeds {MAX_NBYTES} bytes without its pictures")
        found[key] = _decode(value) if inner is None else {k: _decode(v) for k, v in inner.items()}
    return found


def read_value(text: Raw, name: str) -> Any:
    """Read a value that is an object, see `read_object`, or anything else that is small."""
    if bytes(memoryview(text)[:1]) == b"{":
        return read_object(text, name)
    if len(memoryview(text)) > MAX_NBYTES:
        raise PayloadTooLarge(f"field {name} exceeds {MAX_NBYTES} bytes")
    return _decode(text)


def read_fields(text: Raw | bytes, name: str) -> dict[str, Raw]:
    """Return the fields of an object that are no pictures, unread.

    Raises:
        ConfigError: it is no object.
    """
    try:
        fields = _FIELDS.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ConfigError(f"field {name}: {rephrase(err)}") from err
    return {key: value for key, value in fields.items() if key not in PICTURES}


def _decode(text: Raw) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ConfigError(f"body is malformed: {rephrase(err)}") from err


def _plain(body: bytes) -> bytes:
    """Return JSON without the numbers that it does not have, though Python's own module does."""
    if b"NaN" not in body and b"Infinity" not in body:
        return body
    try:
        document = json.loads(body, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as err:
        raise ConfigError(f"body is malformed: {str(err)[:200].lower()}") from err
    return msgspec.json.encode(document)
