"""`Feed`: what a job sees, at the cloud: one connection to its node, and any number of viewers.

There is a connection while somebody looks on. What comes is made JPEG here, if it is not JPEG
already, once; each viewer finds the newest in his place when he has taken the one before. So a
viewer who takes little holds up nobody, and the way to the node carries each picture once.

    node  -- pieces, JPEG or H.264, as the way allows -->  feed  -- JPEG -->  viewers
          -- multipart, of nodes of other makes ------->

A connection that is cut, or silent, is made again, and the viewers see the job go on. It ends for
them when the node says that the job has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import h11
import numpy as np

from vdag import _native as native
from vdag.control.jobs.live import JPEG_QUALITY
from vdag.control.viewing.multipart import PartReader, boundary_of
from vdag.control.viewing.pace import Wanted
from vdag.control.viewing.pieces import CONTENT_TYPE, Kind, Piece, PieceReader
from vdag.errors import ConfigError, FrameFormatError, VdagError
from vdag.transport import h264

__all__ = ["Feed", "Feeds", "Origin", "split"]

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.0
CHUNK_NBYTES = 1 << 16
#: Our nodes say at least every two seconds that they are there; others need not.
SILENCE_S, SILENCE_OF_OTHERS_S = 6.0, 30.0
#: Between two attempts to come through again, and how long they go on without a picture.
RETRY_S, PATIENCE_S = 1.0, 30.0
CODECS = {Kind.JPEG: "JPEG", Kind.KEY: "H.264", Kind.DELTA: "H.264"}


class Origin(NamedTuple):
    """Where pictures come from.

    Attributes:
        address: `HOST:PORT` of the side channel.
        target: of the request: path and parameters.
        authorization: header that the viewer has shown; empty for none.
    """

    address: str
    target: str
    authorization: str = ""


@dataclass(eq=False)
class Seat:
    """Somebody's place at a feed; of the event loop.

    Attributes:
        wake: called when there is a newer picture, or none will ever come.
    """

    wake: Callable[[], None]
    piece: Piece | None = None

    def take(self) -> Piece | None:
        """Return the newest picture, None if there is none since the last call."""
        piece, self.piece = self.piece, None
        return piece


class Feed:
    """See above; of the event loop. It is a `View`.

    Args:
        origin: of the pictures.
        on_empty: called when nobody looks on any more.
    """

    def __init__(self, origin: Origin, on_empty: Callable[[], None]) -> None:
        self._origin, self._on_empty = origin, on_empty
        self._seats: list[Seat] = []
        self._task: asyncio.Task[None] | None = None
        self._is_over = False
        self._shown = 0
        self._codec = ""
        self._decoder: _Decoder | None = None

    @property
    def is_over(self) -> bool:
        """Whether no picture will come any more."""
        return self._is_over

    def watch(self, wake: Callable[[], None], *, overlay: bool = False) -> Seat:
        """Look on, until `leave`; whether there is an overlay was said by the origin."""
        seat = Seat(wake)
        self._seats.append(seat)
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
        return seat

    def leave(self, watcher: Seat) -> None:
        """Look on no more; the connection ends with the last who does."""
        self._seats.remove(watcher)
        if not self._seats:
            self._is_over = True  # looked at, too: `wait_for` may lose a cancellation
            if self._task is not None:
                self._task.cancel()
            self._on_empty()

    async def _run(self) -> None:
        try:
            await self._pull_on()
        except Exception:  # a fault of ours: those who look on are told, and other feeds go on
            logger.exception("pictures of %s cannot be shown", self._origin.address)
        finally:
            self._is_over = True
            for seat in self._seats:
                seat.wake()

    async def _pull_on(self) -> None:
        """Pull until the job is over; again and again, if it is cut off."""
        loop = asyncio.get_running_loop()
        since_s = loop.time()
        while not self._is_over:
            shown = self._shown
            try:
                await self._pull()
                return
            except (OSError, asyncio.TimeoutError, h11.RemoteProtocolError, VdagError) as err:
                reason = str(err) or type(err).__name__
                logger.info("side channel %s: %s", self._origin.address, reason)
            if self._shown > shown:
                since_s = loop.time()
            if not self._shown or loop.time() - since_s > PATIENCE_S:
                return
            await asyncio.sleep(RETRY_S)

    async def _pull(self) -> None:
        """Show what comes over one connection, to its proper end.

        Raises:
            OSError: the node cannot be reached, or not any more.
            asyncio.TimeoutError: it is silent.
            RemoteProtocolError: it speaks no HTTP, or ends in the middle of it.
            VdagError: it sends no pictures that can be read.
        """
        async with _asked(self._origin) as events:
            head = await anext(events)
            assert isinstance(head, h11.Response), "it comes first"
            headers = {name: value.decode("latin-1") for name, value in head.headers}
            content_type = headers.get(b"content-type", "")
            reader: PieceReader | PartReader
            if content_type == CONTENT_TYPE:
                reader, events.silence_s = PieceReader(), SILENCE_S
            elif boundary := boundary_of(content_type):
                reader, events.silence_s = PartReader(boundary), SILENCE_OF_OTHERS_S
            else:
                address, status = self._origin.address, head.status_code
                logger.info("side channel %s has no pictures: status %d", address, status)
                return
            self._decoder = None
            async for event in events:
                assert isinstance(event, h11.Data), "the head is through"
                await self._show([*reader.read(bytes(event.data))])
                if self._is_over:
                    return

    async def _show(self, pieces: list[Piece]) -> None:
        """Show the newest of the pictures that have come at once; see all, if they are H.264."""
        pieces = [piece for piece in pieces if piece.kind is not Kind.NOTHING]
        for number, piece in enumerate(pieces, 1):
            shown: Piece | None = piece
            if piece.kind.is_h264:
                shown = await asyncio.to_thread(self._decode, piece, number == len(pieces))
            if shown is not None:
                self._give(shown)
        if pieces and (codec := CODECS[pieces[-1].kind]) != self._codec:
            self._codec = codec
            logger.info("pictures of %s come as %s", self._origin.address, codec)

    def _give(self, piece: Piece) -> None:
        self._shown += 1
        for seat in self._seats:
            seat.piece = piece
            seat.wake()

    def _decode(self, piece: Piece, is_newest: bool) -> Piece | None:
        """Return a picture as JPEG, None if there is a newer one; by any thread, one at a time."""
        if piece.kind is Kind.KEY:
            if self._decoder is None or self._decoder.size != (piece.width, piece.height):
                self._decoder = _Decoder(piece.width, piece.height)
        elif self._decoder is None:
            raise FrameFormatError("H.264 begins without a key frame")
        jpeg = self._decoder.decode(piece.data, is_newest)
        return None if jpeg is None else Piece(Kind.JPEG, jpeg, piece.width, piece.height)


class _Decoder:
    """Makes JPEG of the H.264 of one size; its memory is taken once."""

    def __init__(self, width: int, height: int) -> None:
        self.size = width, height
        self._decoder = h264.Decoder(width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)

    def decode(self, data: bytes, is_newest: bool) -> bytes | None:
        """Return the next picture as JPEG; None if it is not the newest and only has to be seen."""
        frame = self._decoder.decode(data)
        if not is_newest:
            return None
        self._decoder.copy_pixels(frame, self._pixels)
        return native.jpeg.encode(self._pixels, quality=JPEG_QUALITY)


class Feeds:
    """The feeds of a cloud; of the event loop.

    Args:
        wanted: how pictures are asked for.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted: Wanted = wanted if _can_decode() else "mjpeg"
        self._feeds: dict[Origin, Feed] = {}

    def of(self, address: str, path: str, *, overlay: bool, authorization: str) -> Feed:
        """Return the feed of a job; it begins when somebody looks on.

        Args:
            address: of the node's side channel.
            path: of the request there.
            overlay: what was found is to be drawn into the pictures.
            authorization: that the viewer has shown, and that the node is shown.
        """
        target = f"{path}?codec={self._wanted}&overlay={int(overlay)}"
        origin = Origin(address, target, authorization)
        found = self._feeds.get(origin)
        if found is None or found.is_over:
            found = self._feeds[origin] = Feed(origin, lambda: self._forget(origin))
        return found

    def _forget(self, origin: Origin) -> None:
        found = self._feeds.get(origin)
        if found is not None and found.is_over:
            del self._feeds[origin]


def _can_decode() -> bool:
    try:
        h264.Decoder(16, 16).close()
    except VdagError as err:
        logger.warning("pictures are asked for as JPEG only: %s", err)
        return False
    return True


class _Events(AsyncIterator[h11.Event]):
    """What a server answers, from the head of its reply to its end."""

    def __init__(self, connection: h11.Connection, reader: asyncio.StreamReader) -> None:
        self._connection, self._reader = connection, reader
        self.silence_s = CONNECT_TIMEOUT_S + SILENCE_S  # a head may wait for the first picture

    async def __anext__(self) -> h11.Event:
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                reading = self._reader.read(CHUNK_NBYTES)
                self._connection.receive_data(await asyncio.wait_for(reading, self.silence_s))
            elif isinstance(event, (h11.Response, h11.Data)):
                return event
            elif not isinstance(event, h11.InformationalResponse):
                raise StopAsyncIteration


@asynccontextmanager
async def _asked(origin: Origin) -> AsyncIterator[_Events]:
    """Ask for pictures; the connection ends with the block."""
    host, port = split(origin.address)
    opening = asyncio.open_connection(host, port)
    reader, writer = await asyncio.wait_for(opening, CONNECT_TIMEOUT_S)
    try:
        connection = h11.Connection(h11.CLIENT)
        headers = [("host", origin.address), ("accept", "*/*")]
        if origin.authorization:
            headers.append(("authorization", origin.authorization))
        request = h11.Request(method="GET", target=origin.target, headers=headers)
        for event in (request, h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        yield _Events(connection, reader)
    finally:
        writer.close()


def split(address: str) -> tuple[str, int]:
    """Return host and port of an address.

    Raises:
        ConfigError: it is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"node_addr is {address[:80]!r}, expected HOST:PORT")
    return host.strip("[]"), int(port)
