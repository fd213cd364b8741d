from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vdag.errors import SourceError, SourceTimeout
from vdag.sources import open_source


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.mp4"
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert str(caught.value) == f"{path}: no such file or directory"


def test_a_file_can_be_named_by_url(carphone: Path) -> None:
    with open_source(f"file://{carphone}") as source:
        assert source.name == "carphone_pristine.mp4"


def test_a_colon_in_a_name_is_no_scheme(carphone: Path, tmp_path: Path) -> None:
    path = tmp_path / "cam:1.mp4"
    shutil.copy(carphone, path)
    with open_source(path) as source:
        assert source.read() is not None


def test_an_unknown_scheme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SourceError) as caught:
        open_source("gopher://host/video")
    assert str(caught.value) == (
        "gopher://host/video: unknown scheme 'gopher', expected file, http, https, v4l2, rtsp, "
        "rtsps, rtmp, rtmps, srt, udp, tcp or synthetic:"
    )


@pytest.mark.parametrize(
    "url", ["rtsp://user:secret@127.0.0.1:1/cam?token=secret", "http://user:secret@127.0.0.1:1/cam"]
)
def test_messages_show_no_credentials(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(url, read_timeout_s=5)
    scheme = url.partition(":")[0]
    assert str(caught.value) == (
        f"{scheme}://127.0.0.1:1/cam: cannot be opened: connection refused"
    )


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SourceError, match=r"^not an address: "):
        open_source("http://host:port:1/")


def test_a_missing_camera_is_refused() -> None:
    with pytest.raises(SourceError, match=r"^video77: cannot be opened: no such file"):
        open_source("v4l2:///dev/video77")
    with pytest.raises(SourceError, match=r"^/dev/video77: no such file or directory$"):
        open_source("/dev/video77")


def test_a_device_that_is_no_camera_is_refused() -> None:
    with pytest.raises(SourceError, match=r"^null: cannot be opened: "):
        open_source("/dev/null")


def test_a_timeout_is_a_source_error() -> None:
    assert issubclass(SourceTimeout, SourceError)
