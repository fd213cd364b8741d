"""Frames that do not arrive: each is counted once, and its job is told why."""

from __future__ import annotations

import re

import pytest

from vdag._native import header as native_header
from vdag.errors import ChannelClosed
from vdag.transport import codec, messages
from vdag.transport.exchange import Exchange

TASK = "brightness"
NBYTES = 32 * 16 * 3


def test_a_frame_on_which_the_task_raised_is_dropped_with_its_error(node):
    home, worker = node.join(), node.worker().hello().ready(credit=2, max_batch=2)
    node.inbox.send(node.frame(1, plan=4))
    batch = worker.take()
    worker.done(batch.id, [messages.Failure("ValueError: no", "Traceback\n")])
    notice = home.dropped()
    assert notice == messages.Dropped(
        job="job",
        stream=7,
        seq=1,
        plan=4,
        task=TASK,
        reason="failed",
        where=node.exchange.address,
        detail="ValueError: no\nTraceback",
    )
    stats = node.until(lambda stats: stats.dropped == {"failed": 1})
    assert stats.workers["w"].failures == 1
    assert stats.arena.leases == 0  # though the worker has not even acquired its own


def test_a_full_queue_drops_and_says_so(node):
    home = node.join()
    for seq in range(17):
        node.inbox.send(node.frame(seq))
    assert home.dropped().reason == "full"
    node.until(lambda stats: stats.waiting == 16)


def test_a_frame_of_an_unknown_job_or_task_is_a_stray(node):
    node.inbox.send(node.frame(1, job="nobody"))
    stats = node.until(lambda stats: stats.received == 1)
    assert (stats.dropped, stats.unsent) == ({"stray": 1}, 1)
    home = node.join()
    node.inbox.send(node.frame(2, "unheard_of"))
    assert (home.dropped().reason, node.exchange.stats().dropped) == ("stray", {"stray": 2})


def test_a_descriptor_whose_lease_is_used_up_is_stale(node):
    home, worker = node.join(), node.worker().hello().ready(credit=2)
    part = node.frame(1)
    node.inbox.send(part)
    worker.answer(worker.take())
    assert home.take().header.seq == 1
    node.inbox.send(part)
    notice = home.dropped()
    assert (notice.reason, notice.seq) == ("stale", 1)
    assert re.fullmatch(r"generation \d+ of slot \d+ is over", notice.detail)


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        ({"arena": 77}, "stale", "slot 0 is in arena 000000000000004d, not in this one"),
        ({"slot": 64}, "unreadable", "slot 64 is none of the 64"),
        (
            {"shape": (16, 31, 3), "payload_nbytes": 1488},
            "stale",
            "slot 0 holds 1536 bytes, not 1488",
        ),
    ],
)
def test_a_descriptor_that_lies_about_its_pixels_is_dropped(node, fields, reason, detail):
    home = node.join()
    honest = codec.decode([node.frame(1)])
    header = honest.header
    liar = codec.Descriptor(header.replace(**fields), "job", "camera", honest.route)
    node.inbox.send(codec.encode(liar)[0])
    notice = home.dropped()
    assert (notice.reason, notice.detail) == (reason, detail)
    # The lease is used up if it was found, else still the sender's.
    was_found = "payload_nbytes" in fields
    assert node.exchange.arena.drop(header.slot, header.generation) is not was_found


def test_a_payload_that_workers_do_not_decode_is_dropped(node):
    home = node.join()
    header = native_header.Header(kind=native_header.KIND_JPEG, payload_nbytes=4)
    route = (codec.Hop(TASK, node.exchange.address), codec.Hop("home", node.exchange.address))
    descriptor = codec.Descriptor(header, "job", "camera", route, payload=b"\xff\xd8\xff\xd9")
    node.inbox.send(codec.encode(descriptor)[0])
    notice = home.dropped()
    assert notice.reason == "unreadable"
    assert notice.detail == "workers read no payload of kind jpeg"


def test_a_frame_for_another_node_goes_to_its_edge_with_its_lease(folder, plug):
    taken = []

    class Edge:
        room = 1

        def send(self, part, view):
            if not self.room:
                return False
            self.room -= 1
            taken.append((part, view))
            return True

        def close(self):
            pass

    there = "tcp://192.0.2.1:9000"
    with Exchange(folder, classes=[(NBYTES, 4)], edges={there: Edge()}) as exchange:
        node = plug(exchange)
        home = node.join()
        for seq in range(2):
            honest = codec.decode([node.frame(seq)])
            route = (codec.Hop(TASK, there), honest.route[-1])
            node.inbox.send(codec.encode(codec.Descriptor(honest.header, "job", "c", route))[0])
        assert home.dropped().reason == "peer_full"
        part, view = taken.pop()
        assert codec.decode_head([part]).here == codec.Hop(TASK, there)
        assert bytes(memoryview(view)) == bytes(NBYTES)
        stats = node.until(lambda stats: stats.peer == 1)
        assert (stats.dropped, stats.arena.leases) == ({"peer_full": 1}, 1)
        view.release()
        assert exchange.stats().arena.leases == 0


def test_an_edge_that_fails_takes_nothing_down_with_it(folder, plug):
    class Edge:
        def send(self, part, view):
            raise ChannelClosed("edge is closed")

        def close(self):
            pass

    there = "tcp://192.0.2.1:9000"
    with Exchange(folder, classes=[(NBYTES, 4)], edges={there: Edge()}) as exchange:
        node = plug(exchange)
        exchange.open_task(TASK)
        home = node.join()
        honest = codec.decode([node.frame(0)])
        route = (codec.Hop(TASK, there), honest.route[-1])
        node.inbox.send(codec.encode(codec.Descriptor(honest.header, "job", "c", route))[0])
        notice = home.dropped()
        assert notice.reason == "unreachable"
        assert notice.detail == f"edge to {there}: edge is closed"
        worker = node.worker().hello().ready()
        node.inbox.send(node.frame(1, job="elsewhere", home=there))
        worker.answer(worker.take())
        stats = node.until(lambda stats: stats.dropped == {"unreachable": 2})
        assert (stats.peer, stats.unsent, stats.arena.leases) == (0, 1, 0)


def test_a_frame_from_another_node_goes_home_through_its_edge(folder, plug):
    taken = []

    class Edge:
        def send(self, part, view):
            taken.append((part, view))
            return True

        def close(self):
            pass

    there = "tcp://192.0.2.1:9000"
    with Exchange(folder, classes=[(NBYTES, 4)], edges={there: Edge()}) as exchange:
        node = plug(exchange)
        exchange.open_task(TASK)
        worker = node.worker().hello().ready(credit=2)
        node.inbox.send(node.frame(1, home=there))
        worker.answer(worker.take())
        node.until(lambda stats: stats.peer == 1)
        node.inbox.send(node.frame(2, home=there))
        worker.done(worker.take().id, [messages.Failure("ValueError")])
        node.until(lambda stats: stats.dropped == {"failed": 1})
    (result, no_view), (notice, _) = taken
    assert no_view is None
    assert codec.decode([result]).context == {TASK: {"sample": 1}}
    assert messages.decode(notice).reason == "failed"


def test_a_result_and_a_notice_of_another_node_reach_the_job_here(folder, plug):
    mine = "tcp://192.0.2.7:9000"
    with Exchange(folder, classes=[(NBYTES, 4)], aliases=[mine]) as exchange:
        node = plug(exchange)
        home = node.join()
        descriptor = codec.decode([node.frame(1, home=mine)])
        through = codec.advance(descriptor, {"sample": 8})
        node.inbox.send(codec.encode(through)[0])
        assert home.take().context == {TASK: {"sample": 8}}
        notice = messages.Dropped("job", 7, 2, 0, TASK, "failed", "tcp://192.0.2.1:9000")
        node.send(notice)
        assert home.take() == notice


def test_a_hop_to_a_node_without_an_edge_is_unreachable(node):
    home = node.join()
    honest = codec.decode([node.frame(1)])
    route = (codec.Hop(TASK, "tcp://192.0.2.1:9000"), honest.route[-1])
    node.inbox.send(codec.encode(codec.Descriptor(honest.header, "job", "c", route))[0])
    notice = home.dropped()
    assert notice.reason == "unreachable"
    assert notice.detail == "no edge leads to tcp://192.0.2.1:9000"


def test_a_job_that_does_not_read_loses_its_results_and_nobody_else_does(node):
    node.send(messages.Join("deaf", f"ipc://{node.exchange.folder}/job-deaf"))
    home, worker = node.join("job"), node.worker().hello().ready(credit=4096)
    for seq in range(1100):
        node.inbox.send(node.frame(seq, job="deaf"))
        worker.answer(worker.take())
    stats = node.until(lambda stats: stats.home + stats.dropped.get("peer_full", 0) == 1100)
    assert stats.dropped["peer_full"] >= 50
    node.inbox.send(node.frame(5000))
    worker.answer(worker.take())
    assert home.take().header.seq == 5000
