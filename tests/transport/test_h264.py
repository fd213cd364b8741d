from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.errors import ConfigError, FrameFormatError, ImageError, TransportError
from vdag.transport.h264 import Decoder, Encoder, Packet

WIDTH, HEIGHT = 176, 144
BITRATE = 400_000


def read(path: Path, count: int | None = None) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="bgr24") for f in islice(container.decode(video=0), count)]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def decoded(decoder: Decoder, packet: Packet) -> np.ndarray:
    out = np.empty((decoder.height, decoder.width, 3), np.uint8)
    decoder.copy_pixels(decoder.decode(packet.data), out)
    return out


@pytest.fixture(scope="module")
def frames(clips: Path) -> list[np.ndarray]:
    return read(clips / "carphone_pristine.mp4")


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(WIDTH, HEIGHT, bitrate=BITRATE)


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(WIDTH, HEIGHT)


def test_every_picture_comes_out_at_once_and_looks_the_same(frames, encoder, decoder):
    packets = [encoder.encode(frame) for frame in frames]
    worst = min(psnr(frame, decoded(decoder, p)) for frame, p in zip(frames, packets, strict=True))
    assert worst > 30
    assert [p.is_key for p in packets] == [True] + [False] * (len(frames) - 1)


def test_the_bit_rate_is_kept(frames, encoder):
    packets = [encoder.encode(frame) for frame in frames]
    bits_per_second = sum(len(p.data) for p in packets) * 8 * 25 / len(packets)
    assert 0.7 * BITRATE < bits_per_second < 1.3 * BITRATE


def test_a_larger_picture_of_another_clip(bikes: Path):
    pictures = read(bikes, 40)
    encoder, decoder = Encoder(640, 272, bitrate=3_000_000), Decoder(640, 272)
    assert min(psnr(p, decoded(decoder, encoder.encode(p))) for p in pictures) > 30


def test_slices_on_several_threads_decode_the_same_way(frames):
    encoder, decoder = Encoder(WIDTH, HEIGHT, bitrate=BITRATE, threads=2), Decoder(WIDTH, HEIGHT)
    assert min(psnr(f, decoded(decoder, encoder.encode(f))) for f in frames[:20]) > 30


def test_a_key_frame_is_made_when_it_is_wanted_and_decodes_by_itself(frames, encoder):
    for frame in frames[:5]:
        encoder.encode(frame)
    encoder.want_key()
    key, next_one = encoder.encode(frames[5]), encoder.encode(frames[6])
    assert (key.is_key, next_one.is_key) == (True, False)
    late = Decoder(WIDTH, HEIGHT)
    assert psnr(frames[5], decoded(late, key)) > 30
    assert psnr(frames[6], decoded(late, next_one)) > 30


def test_nothing_is_shown_before_a_key_frame(frames, encoder, decoder):
    packets = [encoder.encode(frame) for frame in frames[:3]]
    with pytest.raises(FrameFormatError, match=r"^packet is no H\.264: invalid data found"):
        decoder.decode(packets[1].data)


@pytest.mark.parametrize(("width", "height"), [(177, 144), (176, 145), (33, 17), (1, 1), (2, 1)])
def test_odd_sides_arrive_as_they_were(frames, width: int, height: int):
    encoder, decoder = Encoder(width, height, bitrate=BITRATE), Decoder(width, height)
    for frame in frames[:3]:
        picture = np.resize(frame, (height, width, 3)) if width > WIDTH else frame[:height, :width]
        picture = np.pad(picture, ((0, height - picture.shape[0]), (0, 0), (0, 0)), "edge")
        assert decoded(decoder, encoder.encode(picture)).shape == (height, width, 3)
    flat = np.full((height, width, 3), 90, np.uint8)
    assert psnr(flat, decoded(decoder, encoder.encode(flat))) > 30


def test_pictures_with_any_strides_are_taken(frames, encoder, decoder):
    wide = np.zeros((HEIGHT, WIDTH + 32, 3), np.uint8)
    wide[:, 8 : 8 + WIDTH] = frames[0]
    rows_apart, mirrored = wide[:, 8 : 8 + WIDTH], frames[0][:, ::-1]
    assert psnr(frames[0], decoded(decoder, encoder.encode(rows_apart))) > 30
    assert psnr(mirrored, decoded(decoder, encoder.encode(mirrored))) > 30


def test_a_read_only_picture_stays_as_it_was(frames, encoder):
    picture = frames[0].copy()
    picture.flags.writeable = False
    encoder.encode(picture)
    assert np.array_equal(picture, frames[0])


def test_a_picture_of_another_size_is_refused_by_both(frames, encoder):
    text = "pixels of uint8 (100, 176, 3) do not fit an encoder for 176 x 144"
    with pytest.raises(ImageError, match=f"^{re.escape(text)}$"):
        encoder.encode(frames[0][:100])
    packet = encoder.encode(frames[0])
    with pytest.raises(FrameFormatError, match=r"^picture of 176 x 144 is not 160 x 144$"):
        Decoder(160, HEIGHT).decode(packet.data)


def test_a_decoder_takes_no_memory_for_a_much_larger_picture(frames):
    packet = Encoder(1920, 1080, bitrate=4_000_000).encode(np.zeros((1080, 1920, 3), np.uint8))
    with pytest.raises(FrameFormatError, match=r"^packet is no H\.264: invalid data found"):
        Decoder(WIDTH, HEIGHT).decode(packet.data)


@pytest.mark.parametrize(
    ("width", "height", "bitrate", "fps", "text"),
    [
        (0, 8, BITRATE, 25, "picture of 0 x 8 has a side outside 1..16384"),
        (8, 16385, BITRATE, 25, "picture of 8 x 16385 has a side outside 1..16384"),
        (8, 8, 9_999, 25, "bitrate of 9999 is outside 10000..1000000000"),
        (8, 8, BITRATE, 0, "fps of 0 is outside 0..1000"),
    ],
)
def test_options_without_a_meaning_are_refused(width, height, bitrate, fps, text):
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        Encoder(width, height, bitrate=bitrate, fps=fps)


def test_a_decoder_of_no_size_is_refused():
    with pytest.raises(ConfigError, match=r"^picture of 8 x 0 has a side outside 1\.\.16384$"):
        Decoder(8, 0)


def test_what_is_closed_codes_no_more(frames, encoder, decoder):
    packet = encoder.encode(frames[0])
    for coder in (encoder, decoder):
        coder.close()
        coder.close()
    with pytest.raises(TransportError, match=r"^the encoder is closed$"):
        encoder.encode(frames[0])
    with pytest.raises(FrameFormatError, match=r"^the decoder is closed$"):
        decoder.decode(packet.data)


def test_nothing_is_no_packet(decoder):
    with pytest.raises(FrameFormatError, match=r"^packet of 0 bytes is no H\.264$"):
        decoder.decode(b"")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_a_picture_and_never_more(frames, data):
    encoder, decoder = Encoder(WIDTH, HEIGHT, bitrate=BITRATE), Decoder(WIDTH, HEIGHT)
    packet = bytearray(encoder.encode(frames[0]).data)
    cut = data.draw(st.integers(1, len(packet)))
    del packet[cut:]
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, cut - 1), st.integers(0, 255)))):
        packet[at] = value
    try:
        picture = decoder.decode(bytes(packet))
    except FrameFormatError:
        return
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)


def hops(picture: np.ndarray, count: int) -> np.ndarray:
    """Return what a picture is after it was sent from host to host so many times."""
    height, width = picture.shape[:2]
    for _ in range(count):
        encoder = Encoder(width, height, bitrate=40_000_000)
        picture = decoded(Decoder(width, height), encoder.encode(picture))
    return picture


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("width", [512, 511])
def test_grey_stays_as_bright_as_it_was_from_hop_to_hop(count: int, width: int):
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 2)[:width]
    picture = np.broadcast_to(ramp[None, :, None], (64, width, 3)).copy()
    off = hops(picture, count).astype(np.float64) - picture
    assert np.abs(off.mean((0, 1))).max() < 0.5
    assert np.abs(off.mean(0)).max() < 4  # no level of them is far off


@pytest.mark.parametrize("count", [1, 3])
def test_colours_stay_as_they_were_from_hop_to_hop(frames, count: int):
    off = hops(frames[0], count).astype(np.float64) - frames[0]
    assert np.abs(off.mean((0, 1))).max() < 0.5
