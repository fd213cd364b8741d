"""RTSP over loopback: the camera is another process that pushes a real clip."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vdag.sources import Reconnect, open_source

PUSH = """
import sys, time
import av

clip, url, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
deadline = time.monotonic() + 30
while times and time.monotonic() < deadline:
    with av.open(clip) as read:
        stream = read.streams.video[0]
        try:
            write = av.open(url, "w", format="rtsp", options={"rtsp_transport": "tcp"}, timeout=5)
            copy = write.add_stream_from_template(stream)
            write.start_encoding()
        except av.FFmpegError:
            time.sleep(0.02)  # nobody listens yet
            continue
        for packet in read.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                write.mux(packet)
        write.close()
    times -= 1
"""


@pytest.mark.slow
def test_a_camera_that_is_pushed_by_rtsp_comes_twice(bikes: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"rtsp://127.0.0.1:{probe.getsockname()[1]}/cam"
    with subprocess.Popen([sys.executable, "-c", PUSH, str(bikes), url, "2"]) as push:
        with open_source(
            url,
            options={"rtsp_flags": "listen", "listen_timeout": "20"},
            read_timeout_s=5.0,
            reconnect=Reconnect(initial_s=0.01),
        ) as source:
            assert (source.live, source.width, source.height) == (True, 640, 272)
            for frame in source:
                assert frame.pixels.shape == (272, 640, 3)
                if frame.cam_frame_id >= 499:
                    break
            stats = source.stats()
        assert push.wait(30) == 0
    assert stats.reconnects == 1
    assert stats.decoded == 500
    assert stats.decoded == stats.read + stats.late_dropped + stats.skipped
