"""From what names a video to the reader that decodes it.

| address | what it is |
| --- | --- |
| `street.mp4`, `file:///clips/street.mkv` | a file that FFmpeg knows |
| `frames/`, `picture.png` | a folder of pictures, or one |
| `rtsp(s)://`, `rtmp(s)://`, `srt://`, `udp://`, `tcp://` | a live stream |
| `http(s)://` | a file, or a live stream when it has no duration (MJPEG) |
| `/dev/video0`, `v4l2:///dev/video0` | a camera of this machine |
| `synthetic:640x480@30?frames=90` | a made-up video |
| any iterable of arrays | pictures that the program makes |
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from vdag.errors import SourceError
from vdag.frame import UInt8Image
from vdag.sources.arrays import ArrayReader
from vdag.sources.base import OpenOptions, Reader
from vdag.sources.images import IMAGE_SUFFIXES, ImageReader
from vdag.sources.live import LiveReader
from vdag.sources.loop import LoopReader
from vdag.sources.synthetic import SyntheticReader
from vdag.sources.video import VideoReader
from vdag.wording import reason

__all__ = ["Video", "open_reader"]

#: What a source can be opened from.
Video = str | os.PathLike[str] | Iterable[UInt8Image]

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)

# No `nobuffer`: it throws away what was read while probing, and with it the first key frame. The
# thread that reads a live stream catches up by itself.
_LIVE: dict[str, dict[str, str]] = {
    "rtsp": {"rtsp_transport": "tcp"},
    "rtsps": {"rtsp_transport": "tcp"},
    "rtmp": {},
    "rtmps": {},
    "srt": {},
    "udp": {},
    "tcp": {},
}

# A playlist may name other addresses: one from the web must not read this machine's files, and
# one on this machine must not reach into its network.
_HTTP = {"protocol_whitelist": "http,https,tcp,tls,crypto,httpproxy"}
_FILE = {"protocol_whitelist": "file"}


def open_reader(video: Video, options: OpenOptions) -> Reader:
    """Open `video` with the reader that its address asks for.

    A live one is read in a thread of its own, and reconnects; with `options.loop` a finite one
    starts again at its end.

    Raises:
        SourceError: nothing of that address can be opened; the message says why.
        DependencyMissing: the package that decodes it is not installed.
    """
    open_once = _opener(video, options)
    if options.loop:
        return LoopReader(open_once)
    reader = open_once()
    return LiveReader(reader, open_once, options) if reader.info.live else reader


def _opener(video: Video, options: OpenOptions) -> Callable[[], Reader]:
    """Return what opens the video, each time from its start."""
    if not isinstance(video, (str, os.PathLike)):
        return functools.partial(ArrayReader, video, "frames", options)
    address = os.fspath(video)
    if address.startswith("synthetic:"):
        return functools.partial(SyntheticReader, address, options)
    if (match := _SCHEME.match(address)) is not None:
        return _url_opener(match[1].lower(), address, options)
    return _path_opener(Path(address).expanduser(), options)


def _url_opener(scheme: str, url: str, options: OpenOptions) -> Callable[[], Reader]:
    if scheme == "file":
        return _path_opener(Path(url[len("file://") :]), options)
    if scheme == "v4l2":
        return _camera_opener(Path(url[len("v4l2://") :]), options)
    name = _public_name(url)
    if scheme in ("http", "https"):
        return functools.partial(VideoReader, url, name, options, ffmpeg=_HTTP)
    if scheme in _LIVE:
        return functools.partial(VideoReader, url, name, _as_live(options), ffmpeg=_LIVE[scheme])
    known = ", ".join(["file", "http", "https", "v4l2", *_LIVE])
    raise SourceError(f"{name}: unknown scheme {scheme!r}, expected {known} or synthetic:")


def _path_opener(path: Path, options: OpenOptions) -> Callable[[], Reader]:
    try:
        mode = path.stat().st_mode
    except OSError as err:
        raise SourceError(f"{path}: {reason(err)}") from err
    if stat.S_ISCHR(mode):
        return _camera_opener(path, options)
    if stat.S_ISDIR(mode) or path.suffix.lower() in IMAGE_SUFFIXES:
        return functools.partial(ImageReader, path, path.name, options)
    # The prefix keeps FFmpeg from reading a scheme into a name such as `cam:1.mp4`.
    url = f"file:{path}"
    return functools.partial(VideoReader, url, path.name, options, ffmpeg=_FILE, local=True)


def _camera_opener(path: Path, options: OpenOptions) -> Callable[[], Reader]:
    return functools.partial(VideoReader, str(path), path.name, _as_live(options), container="v4l2")


def _as_live(options: OpenOptions) -> OpenOptions:
    return options if options.live is not None else dataclasses.replace(options, live=True)


def _public_name(url: str) -> str:
    """Return the address without credentials and query, for messages and logs."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        raise SourceError(f"not an address: {err}") from err
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"
