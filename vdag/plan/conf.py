"""`VideoConf`: how frames are taken from a video and sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vdag.errors import ConfigError, PlanError
from vdag.plan.fields import expect_number, expect_object, kind
from vdag.sampling import RESOLUTIONS, check_fps, parse_resolution

__all__ = ["ENCODERS", "VideoConf"]

#: What may happen to pixels on their way to another host.
ENCODERS = ("JPEG", "H264", "raw")
#: Spellings of encoders, in lower case: the web page says `x` for none, older files mistype JPEG.
_ENCODERS: Mapping[str, str] = MappingProxyType(
    {"jpeg": "JPEG", "jepg": "JPEG", "jpg": "JPEG", "h264": "H264", "raw": "raw", "x": "raw"}
)


@dataclass(frozen=True, slots=True)
class VideoConf:
    """How frames are taken from a video and sent.

    Attributes:
        resolution: a name of `vdag.sampling.RESOLUTIONS`, `WIDTHxHEIGHT`, or `native`: as it is.
        fps: frames per second to process, 0.001 to 1000; never more than the camera gives.
        encoder: `JPEG`, `H264` or `raw`: of the pixels on their way between hosts.

    Raises:
        PlanError: a value is none of these.
    """

    resolution: str
    fps: float
    encoder: str = "JPEG"

    def __post_init__(self) -> None:
        try:
            parse_resolution(self.resolution)
            check_fps("fps", self.fps)
        except ConfigError as err:
            raise PlanError(str(err)) from err
        if self.encoder not in ENCODERS:
            raise PlanError(f"encoder {self.encoder!r} is unknown, expected {', '.join(ENCODERS)}")

    @property
    def size(self) -> tuple[int, int] | None:
        """`(width, height)` in pixels, None for the size the source has."""
        return parse_resolution(self.resolution)

    @classmethod
    def from_document(cls, document: Any, previous: VideoConf | None = None) -> VideoConf:
        """Read the documents' form; what it leaves out, or gives as null, is that of `previous`.

        Args:
            document: `resolution` or `reso`, a name, a size as text or as `{"w", "h"}`; `fps`;
                `encoder`, in any of the spellings that are about. Other fields are ignored.
            previous: the conf so far, None for none.

        Raises:
            PlanError: it is no object, a field without a previous value is missing, or a value is
                out of range.
        """
        given = expect_object("video_conf", document)
        resolution = given.get("resolution")
        resolution = given.get("reso") if resolution is None else resolution
        fps, encoder = given.get("fps"), given.get("encoder")
        if previous is not None:
            resolution = previous.resolution if resolution is None else resolution
            fps = previous.fps if fps is None else fps
            encoder = previous.encoder if encoder is None else encoder
        return cls(_resolution(resolution), expect_number("fps", fps), _encoder(encoder))

    def to_document(self) -> dict[str, Any]:
        """Return the documents' form, with the resolution under both of its names."""
        fps = int(self.fps) if float(self.fps).is_integer() else self.fps
        return {
            "resolution": self.resolution,
            "reso": self.resolution,
            "fps": fps,
            "encoder": self.encoder,
        }


def _resolution(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value.get('w')}x{value.get('h')}"
    if not isinstance(value, str):
        raise PlanError(f"resolution is one of {', '.join(RESOLUTIONS)}, not {kind(value)}")
    return "native" if value == "source" else value


def _encoder(value: Any) -> str:
    if value is None:
        return "JPEG"
    found = _ENCODERS.get(value.lower()) if isinstance(value, str) else None
    if found is None:
        raise PlanError(f"encoder {value!r} is unknown, expected {', '.join(ENCODERS)}")
    return found
