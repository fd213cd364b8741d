"""The handler that shows pictures: in a window, in a video file, or over HTTP."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Protocol

from vdag.errors import ConfigError, SinkError
from vdag.extras import opencv
from vdag.frame import Frame, UInt8Image
from vdag.graph import Signature
from vdag.results import Outputs, Result
from vdag.tasks.base import Inputs, TaskOptions
from vdag.tasks.handlers.mjpeg import MjpegServer
from vdag.tasks.handlers.ordering import InOrder
from vdag.tasks.params import Param

__all__ = ["FOLDER", "Render"]

#: Environment variable: the folder that videos are written into, by default the working directory.
FOLDER = "VDAG_RENDER_FOLDER"
WINDOW = "window"
#: Pictures that a video waits for a missing one with: more than the workers before it can overtake.
HELD = 16
#: Rate of a video where nobody says one.
ASSUMED_FPS = 25
_ADDRESS = re.compile(
    r"(?:http://)?(?P<host>[A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})/?"
)
_FILE = re.compile(r"[^/\\\0.][^/\\\0]*\.(mp4|mov|mkv)", re.IGNORECASE)


class Render:
    """Shows `image`, frame after frame; gives `shown`, whether it did so with this one.

    A picture that goes back in time helps nobody: one that comes after a later one is not shown. A
    video, which nobody watches yet, keeps a few pictures and has them in order. A frame that does
    not come is not waited for: the one before is shown for longer.

    Parameters: `to`, `window`, a file name that ends in `.mp4`, `.mov` or `.mkv`, or an address
    such as `:8090` or `http://0.0.0.0:8090`, which browsers show; without a host it is of this
    machine alone. `fps`, of a video, 0 for 25. A video is in the folder that the environment
    variable `VDAG_RENDER_FOLDER` names, and is there when the task is closed.

    Raises:
        ConfigError: `to` is none of these, or there is no display for a window.
        SinkError: the file cannot be written, or the address cannot be bound.
        DependencyMissing: OpenCV or PyAV is not installed.
    """

    signature: ClassVar[Signature] = Signature(
        frozenset({"image"}), frozenset({"shown"}), optional=frozenset({"seq"})
    )
    params: ClassVar[Mapping[str, Param]] = MappingProxyType(
        {"to": Param(WINDOW), "fps": Param(0, 0, 1000)}
    )
    parallel: ClassVar[bool] = False
    max_batch: ClassVar[int] = 1

    def __init__(self, options: TaskOptions) -> None:
        self._screen = _open(str(options.params["to"]), int(options.params["fps"]))
        self._order = InOrder(self._screen.show, HELD if isinstance(self._screen, _File) else 0)

    @property
    def address(self) -> str:
        """Where browsers find the pictures; empty if they are shown otherwise."""
        return self._screen.address if isinstance(self._screen, MjpegServer) else ""

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Show each frame's `image`.

        Raises:
            SinkError: the disk is full, or the window is gone.
        """
        return [
            {"shown": self._order.put(inputs["image"], int(inputs.get("seq", self._order.next)))}
            for inputs in batch
        ]

    def close(self) -> None:
        """Complete the file, close the window, end the replies."""
        try:
            self._order.flush()
        finally:
            self._screen.close()


class _Screen(Protocol):
    """Where pictures are shown; of one thread."""

    def show(self, pixels: UInt8Image, seq: int) -> None:
        """Show a picture, C-contiguous; it may be written to afterwards."""

    def close(self) -> None:
        """Show no more."""


class _File:
    """A video; frames that are missing leave the one before in their place."""

    def __init__(self, name: str, fps: int) -> None:
        # Imported here: who shows a window needs no sinks.
        from vdag.sinks.video import VideoSink

        folder = Path(os.environ.get(FOLDER) or ".")
        self._fps = fps or ASSUMED_FPS
        self._begin = self._places = 0
        self._before = -1
        self._sink = VideoSink(folder / name, min_height=0)

    def show(self, pixels: UInt8Image, seq: int) -> None:
        # A session that begins anew goes on where the one before has ended.
        step = seq - self._before if seq > self._before else 1
        self._places += step if self._before >= 0 else 0
        self._before = seq
        shown_s = self._places / self._fps
        frame = Frame(pixels, seq=seq, fps=float(self._fps), pts_s=shown_s)
        height, width = pixels.shape[:2]
        self._sink.write(Result("render", seq, seq, shown_s, width, height, {}, frame=frame))

    def close(self) -> None:
        self._sink.close()


class _Window:
    """A window of OpenCV."""

    def __init__(self) -> None:
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ConfigError(
                "render: a window needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set; "
                "the parameter to may be a file such as out.mp4, or an address such as :8090"
            )
        self._cv2 = opencv()
        self._name = f"vdag {os.getpid()}"
        try:
            self._cv2.namedWindow(self._name, self._cv2.WINDOW_AUTOSIZE)
        except self._cv2.error as err:
            reason = str(err).strip().splitlines()[0]
            raise SinkError(
                f"render: OpenCV opens no window ({reason:.200}); opencv-python-headless has none"
            ) from err

    def show(self, pixels: UInt8Image, seq: int) -> None:
        try:
            self._cv2.imshow(self._name, pixels)
            self._cv2.waitKey(1)
        except self._cv2.error as err:
            raise SinkError(f"render: {str(err).strip():.200}") from err

    def close(self) -> None:
        self._cv2.destroyWindow(self._name)


def _open(to: str, fps: int) -> _Screen:
    if to == WINDOW:
        return _Window()
    if _FILE.fullmatch(to):
        return _File(to, fps)
    address = _ADDRESS.fullmatch(to)
    if address is None or int(address["port"]) > 65535:
        raise ConfigError(
            f"render: to is {to!r}, expected {WINDOW}, a name without folders that ends in "
            ".mp4, .mov or .mkv, or an address such as :8090"
        )
    return MjpegServer(address["host"].strip("[]") or "127.0.0.1", int(address["port"]))
