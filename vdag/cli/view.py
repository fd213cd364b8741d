"""`vdag view`: what a query sees, with what was found drawn in, written to a video."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from vdag import _native as native
from vdag.cli.cloud import Cloud, Token
from vdag.errors import TransportError
from vdag.frame import Frame
from vdag.results import Result
from vdag.sinks import open_sink

__all__ = ["pictures", "record", "view"]

DEFAULT_LIVE = "http://127.0.0.1:5100"
END_OF_HEAD = b"\r\n\r\n"
#: A part ends with the end of its JPEG and an empty line, see `vdag.control.sidechannel`.
END_OF_PART = b"\xff\xd9\r\n\r\n"
MAX_PICTURE_NBYTES = 64 << 20


def view(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Its id, such as GLOBAL_ID_1.")],
    output: Annotated[str, typer.Option(help="A video (.mp4), or pictures into a folder/.")],
    plain: Annotated[bool, typer.Option("--plain", help="Do not draw what was found.")] = False,
    frames: Annotated[int | None, typer.Option(help="Stop after so many pictures.")] = None,
    live: Annotated[
        str, typer.Option(envvar="VDAG_LIVE", help="Address of a side channel.")
    ] = DEFAULT_LIVE,
    token_file: Token = None,
) -> None:
    """Record what a query sees, until it is over."""
    count = record(Cloud(live, token_file), query, output, plain=plain, frames=frames)
    print(f"{count} pictures in {output}")


def record(
    side: Cloud, query: str, output: str, *, plain: bool = False, frames: int | None = None
) -> int:
    """Write the pictures of a side channel to a video, at the times they come; return how many.

    Raises:
        TransportError: the side channel cannot be reached, or has no pictures of the query.
        SinkError: the video cannot be written.
    """
    count = 0
    start_s = time.monotonic()
    with open_sink(output) as sink:
        for jpeg in pictures(side, query, overlay=not plain):
            now_s = time.monotonic()
            if not count:
                start_s = now_s
            pixels = native.jpeg.decode(jpeg)
            height, width = pixels.shape[:2]
            at_s = now_s - start_s
            frame = Frame(
                pixels, stream=query, seq=count, cam_frame_id=count, capture_ns=0, pts_s=at_s
            )
            sink.write(Result(query, count, count, at_s, width, height, {}, frame=frame))
            count += 1
            if count == frames:
                break
    return count


def pictures(side: Cloud, query: str, *, overlay: bool) -> Iterator[bytes]:
    """Yield the pictures of a query as JPEG, until there are no more.

    Raises:
        TransportError: there are none, or what comes is no picture.
    """
    with side.open(f"/user/video/{query}", overlay=int(overlay)) as reply:
        if not reply.headers.get_content_type().startswith("multipart/"):
            raise TransportError(f"{side.url} has no pictures of {query}")
        buffer = bytearray()
        while data := _read(reply):
            buffer += data
            while (end := buffer.find(END_OF_PART)) >= 0:
                part, buffer = buffer[: end + 2], buffer[end + len(END_OF_PART) :]
                yield bytes(part[part.find(END_OF_HEAD) + len(END_OF_HEAD) :])
            if len(buffer) > MAX_PICTURE_NBYTES:
                raise TransportError(f"picture of {side.url} exceeds {MAX_PICTURE_NBYTES} bytes")


def _read(reply: Any) -> bytes:
    try:
        data: bytes = reply.read1(1 << 16)
    except OSError as err:
        raise TransportError(f"the side channel has fallen silent: {err}") from err
    return data
