"""Which frames of a camera are processed, and at which size: the rules, without any I/O.

The rule of the documents: with `conf_fps = min(fps, cam_fps)`, the frame at camera position `n`
is processed iff `floor(conf_fps / cam_fps * n)` differs from that of the frame processed before.
It is computed in integers here, so hours at 30000/1001 frames per second neither drift nor beat.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from vdag.errors import ConfigError

__all__ = ["MAX_SIDE", "RESOLUTIONS", "FrameSampler", "check_fps", "parse_resolution"]

#: Longest side of a picture in pixels; anything larger is refused before memory is taken.
MAX_SIDE = 16384

MAX_FPS = 1000.0
MIN_FPS = 0.001

#: The documents' names, smallest first, to (width, height); the aspect ratio is not preserved.
RESOLUTIONS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "360p": (480, 360),
        "480p": (640, 480),
        "540p": (960, 540),
        "630p": (1120, 630),
        "720p": (1280, 720),
        "810p": (1440, 810),
        "900p": (1600, 900),
        "990p": (1760, 990),
        "1080p": (1920, 1080),
    }
)

_SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")
_NS = 1_000_000_000


def parse_resolution(resolution: str) -> tuple[int, int] | None:
    """Return the size that a resolution stands for.

    Args:
        resolution: a name of `RESOLUTIONS`, a size such as `1280x720`, or `native`.

    Returns:
        `(width, height)` in pixels, or None for `native`: the size the source has.

    Raises:
        ConfigError: it is none of these, or a side is not between 1 and `MAX_SIDE`.
    """
    if resolution == "native":
        return None
    if (size := RESOLUTIONS.get(resolution)) is not None:
        return size
    match = _SIZE.fullmatch(resolution)
    if match is None:
        names = ", ".join(RESOLUTIONS)
        raise ConfigError(
            f"resolution {resolution!r} is unknown, expected {names}, WIDTHxHEIGHT or native"
        )
    width, height = int(match[1]), int(match[2])
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ConfigError(f"resolution {resolution!r} has a side outside 1 to {MAX_SIDE}")
    return width, height


def check_fps(name: str, fps: float) -> None:
    """Raise ConfigError unless `fps` is a rate that `FrameSampler` takes; `name` is its field."""
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ConfigError(f"{name} {fps:g} is not between {MIN_FPS:g} and {MAX_FPS:g}")


class FrameSampler:
    """Decides frame by frame what is processed; the first frame always is.

    With a known camera rate it is the documents' rule on positions (see the module). Without one
    it goes by time: the frame at `t` is taken iff `round(fps * t)` differs from that of the frame
    taken before. Rounding, not flooring, so that a camera whose rate is the asked one keeps all
    its frames although they arrive up to half a period early or late. Without a rate and without
    times every frame is taken.

    The rate may change between any two frames. The frame taken last is then judged by the new
    rate as well, so the next one is due one new interval after it.

    Args:
        fps: frames per second to process, None for all of them.
        cam_fps: rate of the camera, 0 when it is unknown.

    Raises:
        ConfigError: `fps` is not between 0.001 and 1000, or `cam_fps` is negative.
    """

    __slots__ = ("_cam_fps", "_fps", "_last_id", "_last_ns", "_ratio", "passed_over")

    def __init__(self, fps: float | None = None, *, cam_fps: float | Fraction = 0) -> None:
        if not (math.isfinite(cam_fps) and cam_fps >= 0):
            raise ConfigError(f"cam_fps {float(cam_fps):g} is not a rate of at least 0")
        # Cameras' rates are n/1 or n/1001; this turns 29.97002997 back into 30000/1001.
        self._cam_fps = Fraction(cam_fps).limit_denominator(1001)
        self._last_id: int | None = None
        self._last_ns: int | None = None
        #: Frames that were due between the last two that were taken, and did not come.
        self.passed_over = 0
        self.fps = fps

    @property
    def fps(self) -> float | None:
        """Frames per second to process, None for all; assigning takes effect at the next frame."""
        return None if self._fps is None else float(self._fps)

    @fps.setter
    def fps(self, fps: float | None) -> None:
        if fps is None:
            self._fps, self._ratio = None, Fraction(1)
            return
        check_fps("fps", fps)
        self._fps = Fraction(fps).limit_denominator(1_000_000)
        self._ratio = min(self._fps / self._cam_fps, Fraction(1)) if self._cam_fps else Fraction(1)

    def take(self, cam_frame_id: int, t_s: float | None = None) -> bool:
        """Return whether the frame is processed; call it once per frame, in order.

        Args:
            cam_frame_id: position in the source, from 0.
            t_s: when the frame was taken; used only while the camera's rate is unknown.
        """
        t_ns = None if t_s is None else round(t_s * _NS)
        steps = self._steps(cam_frame_id, t_ns)
        if steps == 0:
            return False
        self.passed_over = max(steps - 1, 0)
        self._last_id, self._last_ns = cam_frame_id, t_ns
        return True

    def _steps(self, cam_frame_id: int, t_ns: int | None) -> int:
        """Return how many due frames lie between the last taken one and this, itself included."""
        if self._last_id is None:
            return 1
        if self._cam_fps or self._fps is None:
            return self._at(cam_frame_id) - self._at(self._last_id)
        if t_ns is None or self._last_ns is None:
            return 1
        return self._at_time(self._fps, t_ns) - self._at_time(self._fps, self._last_ns)

    def _at(self, cam_frame_id: int) -> int:
        return self._ratio.numerator * cam_frame_id // self._ratio.denominator

    @staticmethod
    def _at_time(fps: Fraction, t_ns: int) -> int:
        period = fps.denominator * _NS
        return (2 * fps.numerator * t_ns + period) // (2 * period)
