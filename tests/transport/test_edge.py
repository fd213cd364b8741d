"""Frames from one node to another over real sockets: what arrives, and how an edge is used."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from vdag._native import header as native_header
from vdag._native import ring
from vdag.errors import ChannelClosed, ConfigError, FrameFormatError
from vdag.transport import messages
from vdag.transport.codec import Descriptor, Hop, encode
from vdag.transport.edge import Edge
from vdag.transport.encoders import H264, Jpeg, Raw

Header = native_header.Header
UINT8 = native_header.DTYPES.index("uint8")
TIMEOUT_S = 30.0
ROUTE = (Hop("face_detection", "tcp://127.0.0.1:7000"), Hop("home", "tcp://127.0.0.1:7001"))
NOBODY = "tcp://127.0.0.1:9"
SMALL, LARGE = (144, 176, 3), (272, 640, 3)
LARGE_NBYTES = 272 * 640 * 3


def test_raw_frames_arrive_as_they_were_in_order(node, inbox, open_sender, large):
    with open_sender(node, inbox) as sender:
        sender.send_all(large, context={"face_detection": {"bbox": np.ones((2, 4))}})
        assert sender.edge.drain(TIMEOUT_S)
        stats = sender.edge.stats()
    for seq, picture in enumerate(large):
        descriptor, pixels = node.take()
        assert descriptor.header.seq == seq
        assert np.array_equal(pixels, picture)
        assert np.array_equal(descriptor.context["face_detection"]["bbox"], np.ones((2, 4)))
        assert (descriptor.job, descriptor.name, descriptor.route) == ("job", "cam", ROUTE)
    assert (stats.accepted, stats.arrived, stats.dropped, stats.balance) == (30, 30, {}, 0)
    assert stats.sent == 30
    assert stats.nbytes > 30 * LARGE_NBYTES


@pytest.mark.parametrize(
    ("encoder", "nbytes"), [(Jpeg(90), LARGE_NBYTES // 4), (H264(3_000_000), LARGE_NBYTES // 8)]
)
def test_encoded_frames_look_the_same_and_are_much_smaller(
    node, inbox, open_sender, large, psnr, encoder, nbytes
):
    with open_sender(node, inbox, encoder=encoder) as sender:
        sender.send_all(large)
        assert sender.edge.drain(TIMEOUT_S)
        assert sender.edge.stats().nbytes < len(large) * nbytes
    for seq, picture in enumerate(large):
        descriptor, pixels = node.take()
        assert descriptor.header.seq == seq
        assert psnr(pixels, picture) > 30


def test_every_frame_of_a_clip_arrives_over_h264(node, inbox, open_sender, small, psnr):
    with open_sender(node, inbox, encoder=H264(400_000)) as sender:
        sender.send_all(small)
        assert sender.edge.drain(TIMEOUT_S)
        assert sender.edge.stats().arrived == len(small)
    assert min(psnr(node.take()[1], picture) for picture in small) > 30


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("encoder", [Raw(), Jpeg(), H264()])
def test_what_is_no_colour_picture_goes_as_it_is(
    node, inbox, open_sender, message, dtype: str, encoder
):
    array = np.arange(60 * 80).reshape(60, 80).astype(dtype)
    code = native_header.DTYPES.index(dtype)
    with open_sender(node, inbox, encoder=encoder) as sender:
        sender.send(message(array.shape, 0, dtype=code, payload_nbytes=array.nbytes), array)
        descriptor, pixels = node.take()
    assert (descriptor.header.dtype, pixels.dtype) == (code, array.dtype)
    assert np.array_equal(pixels, array)


def test_pixels_with_any_strides_arrive(node, inbox, open_sender, message, small):
    turned = small[0].transpose(1, 0, 2)
    with open_sender(node, inbox) as sender:
        sender.send(message(turned.shape, 0), turned)
        assert np.array_equal(node.take()[1], turned)


def test_results_travel_without_pixels_and_small_arrays_within_the_descriptor(
    node, inbox, open_sender
):
    result = Header(seq=4, cam_frame_id=2**40)
    array = Header(kind=native_header.KIND_INLINE, dtype=UINT8, shape=(3,), payload_nbytes=3, seq=5)
    context = {"face_detection": {"prob": np.float32([0.5])}}
    with open_sender(node, inbox) as sender:
        sender.send(encode(Descriptor(result, "job", "cam", ROUTE, context))[0])
        sender.send(encode(Descriptor(array, "job", "cam", ROUTE, {}, b"abc"))[0])
        assert sender.edge.drain(TIMEOUT_S)
    first, second = (node.frames.get(timeout=TIMEOUT_S)[0] for _ in range(2))
    assert first.header.link_nbytes > second.header.link_nbytes - 3 > 136  # bytes of the messages
    lengths = {"route_nbytes": 0, "context_nbytes": 0, "link_nbytes": 0}
    assert first.header.replace(**lengths) == result
    assert first.context["face_detection"]["prob"] == np.float32([0.5])
    assert second.header.replace(**lengths) == array
    assert bytes(second.payload or b"") == b"abc"


def test_the_encoder_can_be_changed_between_two_frames(
    node, inbox, open_sender, message, small, psnr
):
    encoders = [Raw(), H264(400_000), Jpeg(), H264(400_000), H264(300_000)]
    with open_sender(node, inbox) as sender:
        for seq, encoder in enumerate(encoders):
            sender.edge.encoder = encoder
            sender.send(message(SMALL, seq), small[seq])
            assert psnr(node.take()[1], small[seq]) > 30


def test_streams_of_different_sizes_share_an_edge(
    node, inbox, open_sender, message, small, large, psnr
):
    with open_sender(node, inbox, encoder=H264(2_000_000)) as sender:
        for seq in range(10):
            sender.send(message(SMALL, seq, stream=1), small[seq])
            sender.send(message(LARGE, seq, stream=2), large[seq])
        assert sender.edge.drain(TIMEOUT_S)
        assert node.landing.stats().decoders == 2
    for seq in range(10):
        assert psnr(node.take()[1], small[seq]) > 30
        assert psnr(node.take()[1], large[seq]) > 30


def test_a_stream_whose_size_changes_starts_anew(
    node, inbox, open_sender, message, small, large, psnr
):
    with open_sender(node, inbox, encoder=H264(2_000_000)) as sender:
        for seq, picture in enumerate([small[0], small[1], large[0], large[1], small[2]]):
            sender.send(message(picture.shape, seq), picture)
            assert psnr(node.take()[1], picture) > 30


def test_control_messages_reach_the_other_exchange(node, inbox, open_sender):
    dropped = messages.Dropped("job", 7, 3, 1, "face_detection", "poison", "ipc:///run/exchange")
    with open_sender(node, inbox) as sender:
        assert sender.edge.send(messages.encode(dropped))
        assert messages.decode(node.notices.get(timeout=TIMEOUT_S)) == dropped
    assert node.landing.stats().notices == 1


def test_a_frame_goes_from_slot_to_slot(node, inbox, open_sender, message, small):
    with ring.Arena.create("here", [(LARGE_NBYTES, 2)]) as arena:
        ref = arena.put(small[0])
        assert ref is not None
        part = message(SMALL, 0, slot=ref.slot, generation=ref.generation)
        with open_sender(node, inbox) as sender:
            assert sender.edge.send(part, arena.acquire(ref.slot, ref.generation))
            assert np.array_equal(node.take()[1], small[0])
        assert arena.stats().free == 2


def test_a_slot_shorter_than_its_frame_is_refused_and_stays_the_callers(inbox, message, small):
    with ring.Arena.create("here", [(LARGE_NBYTES, 2)]) as arena:
        ref = arena.put(small[0])
        assert ref is not None
        with Edge(NOBODY, inbox=inbox) as edge, arena.acquire(ref.slot, ref.generation) as view:
            error = "frame of kind slot with 522240 bytes is not in a slot of 76032 bytes"
            with pytest.raises(FrameFormatError, match=f"^{error}$"):
                edge.send(message(LARGE, 0), view)
            assert edge.stats().accepted == 0
            assert arena.stats().leases == 1


def test_times_are_told_by_the_clock_over_there(node, inbox, open_sender, message, small):
    now_ns = time.monotonic_ns()
    with open_sender(node, inbox) as sender:
        sender.send(message(SMALL, 0, capture_ns=now_ns, deadline_ns=now_ns + 5), small[0])
        header = node.take()[0].header
    # One host has one clock, and the edge finds that out.
    assert (header.capture_ns, header.deadline_ns) == (now_ns, now_ns + 5)


# Policies


def test_latest_keeps_the_newest_frame_of_each_stream_and_task(inbox, message, small):
    drops: list[tuple[int, str]] = []
    with Edge(
        NOBODY,
        inbox=inbox,
        policy="latest",
        dropped=lambda drop: drops.append((drop.head.header.seq, drop.reason)),
    ) as edge:
        for seq in range(4):
            assert edge.offer(message(SMALL, seq), small[seq])
        assert edge.offer(message(SMALL, 9, stream=8), small[0])
        assert edge.offer(message(SMALL, 9, hop=1), small[0])
        assert drops == [(0, "superseded"), (1, "superseded"), (2, "superseded")]
        stats = edge.stats()
        assert (stats.accepted, stats.waiting, stats.balance) == (6, 3, 0)
    assert sorted(drops[3:]) == [(3, "closed"), (9, "closed"), (9, "closed")]


def test_latest_with_too_many_streams_lets_those_that_wait_have_their_turn(inbox, message, small):
    drops: list[tuple[int, str]] = []
    with Edge(
        NOBODY,
        inbox=inbox,
        depth=2,
        dropped=lambda drop: drops.append((drop.head.header.stream, drop.reason)),
    ) as edge:
        for stream in range(3):
            assert edge.offer(message(SMALL, 0, stream=stream), small[0])
        assert drops == [(2, "full")]


def test_results_are_never_superseded(inbox):
    with Edge(NOBODY, inbox=inbox, depth=4) as edge:
        for seq in range(4):
            assert edge.offer(encode(Descriptor(Header(seq=seq), "job", "cam", ROUTE))[0])
        assert edge.stats().waiting == 4


def test_block_refuses_what_it_has_no_place_for(inbox, message, small):
    with Edge(NOBODY, inbox=inbox, depth=2, policy="block") as edge:
        assert [edge.offer(message(SMALL, seq), small[seq]) for seq in range(3)] == [1, 1, 0]
        assert (edge.stats().accepted, edge.stats().waiting) == (2, 2)


# Use


def test_what_does_not_go_together_is_refused(inbox, message, small):
    with Edge(NOBODY, inbox=inbox) as edge:
        with pytest.raises(ConfigError, match=r"^no pixels do not go with a frame of kind slot$"):
            edge.offer(message(SMALL, 0))
        with pytest.raises(ConfigError, match=r"^pixels do not go with a frame of kind none$"):
            edge.offer(encode(Descriptor(Header(), "job", "cam", ROUTE))[0], small[0])
        with pytest.raises(
            FrameFormatError, match=r"^buffer of 8 bytes has no header of 136 at offset 0$"
        ):
            edge.offer(b"nonsense", small[0])
        with pytest.raises(ConfigError, match=r"^body of 65537 bytes exceeds limit 65536$"):
            edge.notify(bytes(65537))
        assert edge.stats().accepted == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"depth": 0}, "depth of 0 is not between 1 and 16"),
        ({"depth": 17}, "depth of 17 is not between 1 and 16"),
        ({"confirm_timeout_s": 0.0}, "confirm_timeout_s of 0.0 is not in 0..3600"),
        ({"spare_s": -1.0}, "spare_s of -1.0 is not in 0..60"),
        ({"policy": "fifo"}, "policy 'fifo' is none of latest, block"),
        ({"encoder": Jpeg(0)}, "quality of 0 is outside 1..100"),
        ({"encoder": H264(1)}, "bitrate of 1 is outside 10000..1000000000"),
    ],
)
def test_options_without_a_meaning_are_refused(inbox, options, error):
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        Edge(NOBODY, inbox=inbox, **options)


def test_an_edge_beyond_loopback_needs_keys(inbox):
    with pytest.raises(ConfigError, match=r"^address 'tcp://192\.0\.2\.1:7000' is beyond loopback"):
        Edge("tcp://192.0.2.1:7000", inbox=inbox)


def test_notices_that_find_no_room_are_refused_and_counted(inbox):
    with Edge(NOBODY, inbox=inbox) as edge:
        assert all(edge.notify(b"x") for _ in range(1024))
        assert not edge.notify(b"x")
        assert edge.stats().notices_lost == 1


def test_a_closed_edge_takes_nothing(inbox, message, small):
    edge = Edge(NOBODY, inbox=inbox)
    edge.close()
    edge.close()
    with pytest.raises(ChannelClosed, match=r"^edge to tcp://127\.0\.0\.1:9 is closed$"):
        edge.offer(message(SMALL, 0), small[0])


def test_a_fault_of_the_thread_is_told_to_whoever_calls_next(
    node, inbox, open_sender, message, small
):
    def explode(drop: object) -> None:
        raise RuntimeError("no way")

    with open_sender(node, inbox, dropped=explode) as sender:
        edge = sender.edge
        assert edge.offer(message((4, 5), 0, payload_nbytes=20), np.zeros((4, 5), np.complex64))
        edge._thread.join(TIMEOUT_S)
        with pytest.raises(ChannelClosed, match=r"^edge to .* failed$") as caught:
            edge.offer(message(SMALL, 0), small[0])
        assert repr(caught.value.__cause__) == "RuntimeError('no way')"
