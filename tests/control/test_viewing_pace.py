"""Which coding pictures have, on ways of any width: a pure rule, in a time of the test's own."""

from __future__ import annotations

from vdag.control.viewing.pace import MIN_BITRATE, Pace, Wanted

S = 1_000_000_000
JPEG_NBYTES = 70_000
FPS = 25
#: A picture takes no more as H.264, whatever the rate.
MOST = 600_000


class Way:
    """A way that takes so many bits per second, and a sender that keeps it busy."""

    def __init__(self, bits_per_second: float, wanted: Wanted = "auto", fps: float = FPS) -> None:
        self.bits_per_second, self.fps = bits_per_second, fps
        self.pace = Pace(wanted, 0)
        self.now_ns = self.free_ns = 0
        self.sent = 0

    def run(self, seconds: float) -> list[str]:
        """Send for a while; return each coding that was used, in turn."""
        used = []
        end_ns = self.now_ns + int(seconds * S)
        while self.now_ns < end_ns:
            coding = self.pace.coding
            name = "jpeg" if coding is None else "h264"
            if not used or used[-1] != name:
                used.append(name)
            # The next picture is there at the next multiple of the gap.
            gap_ns = int(S / self.fps)
            self.now_ns += gap_ns - self.now_ns % gap_ns
            nbytes = (
                JPEG_NBYTES if coding is None else int(min(coding.bitrate, MOST) / coding.fps / 8)
            )
            waited_ns = max(self.free_ns - self.now_ns, 0)
            self.now_ns += waited_ns
            self.free_ns = self.now_ns + int(nbytes * 8e9 / self.bits_per_second)
            self.sent += 1
            offered = int(self.now_ns / gap_ns)
            self.pace.sent(self.now_ns, waited_ns, nbytes=nbytes, offered=offered)
        return used


def test_a_wide_way_carries_jpeg():
    assert Way(100e6).run(120) == ["jpeg"]


def test_a_way_that_takes_most_pictures_carries_jpeg():
    assert Way(0.8 * JPEG_NBYTES * 8 * FPS).run(120) == ["jpeg"]


def test_few_pictures_fit_a_thin_way_as_jpeg():
    assert Way(1e6, fps=1.5).run(120) == ["jpeg"]


def test_a_thin_way_carries_h264_of_a_rate_that_fits():
    way = Way(1e6)
    assert way.run(20) == ["jpeg", "h264"]
    coding = way.pace.coding
    assert coding is not None
    assert 0.3e6 < coding.bitrate < 1e6
    before = way.sent
    way.run(10)
    assert way.sent - before > 0.8 * 10 * FPS


def test_a_way_that_becomes_thinner_is_not_swamped():
    way = Way(1e6)
    way.run(20)
    way.bits_per_second = 0.2e6
    way.run(20)
    coding = way.pace.coding
    assert coding is not None
    assert MIN_BITRATE <= coding.bitrate < 0.25e6


def test_a_way_that_becomes_wide_carries_jpeg_again():
    way = Way(1e6)
    way.run(20)
    way.bits_per_second = 100e6
    assert way.run(200) == ["h264", "jpeg"]


def test_a_way_that_stays_thin_is_tried_ever_more_rarely():
    way = Way(1e6)
    tries = [way.run(400).count("jpeg") for _ in range(5)]
    assert tries[0] == 3  # at first, and twice again
    assert tries[-1] <= 1


def test_what_is_asked_for_stays():
    assert Way(1e6, "mjpeg").run(60) == ["jpeg"]
    assert Way(100e6, "h264").run(300) == ["h264"]
