"""Two nodes, each an exchange with its peers: frames go over, and results come home."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from frames_kit import in_slot
from waiting_kit import until

from vdag._native import header as native_header
from vdag.errors import ConfigError
from vdag.transport import codec, messages, peers
from vdag.transport.encoders import Jpeg, Raw
from vdag.transport.exchange import Exchange
from vdag.transport.keys import KeyFolder
from vdag.transport.peer import HOME_LANE, Lane, Peer
from vdag.transport.peers import Peers

TIMEOUT_S = 10.0
TASK = "brightness"
#: Too many bytes to travel inside of a descriptor.
SHAPE = (96, 128, 3)
NBYTES = 96 * 128 * 3
GRAPH = b'{"flow": ["brightness"], "input": {}}'


class Host:
    """A node, and what speaks to its exchange."""

    def __init__(self, node, others: Peers) -> None:
        self.node, self.peers = node, others
        self.exchange = node.exchange

    def frame(self, seq: int, *endpoints: str, **fields) -> bytes:
        """A frame of this node that is done at each of these endpoints, and comes back here."""
        ref = self.exchange.arena.put(np.full(SHAPE, seq, np.uint8))
        assert ref is not None
        job = fields.pop("job", "job")
        header = in_slot(ref, SHAPE, seq=seq, stream=7, **fields)
        hops = [codec.Hop(f"{TASK}{n or ''}", at) for n, at in enumerate(endpoints)]
        route = (*hops, codec.Hop("home", self.peers.address))
        return codec.encode(codec.Descriptor(header, job, "camera", route))[0]


@pytest.fixture
def hosts(tmp_path, plug) -> Iterator[tuple[Host, Host]]:
    classes = [(NBYTES, 8)]
    with (
        Exchange(tmp_path / "a", classes=classes) as a,
        Exchange(tmp_path / "b", classes=classes) as b,
        Peers(a, "tcp://127.0.0.1:0") as a_peers,
        Peers(b, "tcp://127.0.0.1:0") as b_peers,
    ):
        yield Host(plug(a), a_peers), Host(plug(b), b_peers)
        for exchange in (a, b):
            exchange.check()
            deadline_s = time.monotonic() + TIMEOUT_S
            while (stats := exchange.stats()).arena.leases:
                assert time.monotonic() < deadline_s, stats


def test_a_frame_is_worked_on_by_another_node_and_its_context_comes_home(hosts):
    here, there = hosts
    there.exchange.open_task(TASK)
    home = here.node.join()
    here.peers.visit("job", GRAPH, {there.peers.address: Lane("block", Raw())})
    here.node.inbox.send(here.frame(7, there.peers.address, capture_ns=time.monotonic_ns()))
    worker = there.node.worker().hello().ready()
    batch = worker.take()
    assert batch.graphs == {"job": GRAPH}
    assert worker.answer(batch) == [7]
    found = home.take()
    assert (found.header.seq, found.header.kind) == (7, native_header.KIND_NONE)
    assert found.context == {TASK: {"sample": 7}}
    assert (here.exchange.stats().peer, there.exchange.stats().peer) == (1, 1)
    assert here.node.until(lambda stats: stats.home == 1).arena.leases == 0


def test_a_frame_visits_both_nodes_in_the_order_of_its_route(hosts):
    here, there = hosts
    here.exchange.open_task(TASK)
    there.exchange.open_task(f"{TASK}1")
    home = here.node.join()
    here.peers.visit("job", GRAPH, {there.peers.address: Lane()})
    here.node.inbox.send(here.frame(3, here.peers.address, there.peers.address))
    near = here.node.worker().hello().ready()
    assert near.answer(near.take(), count=1) == [3]
    far = there.node.worker("v", f"{TASK}1").hello().ready()
    assert far.answer(far.take(), count=2) == [3]
    assert home.take().context == {TASK: {"count": 1}, f"{TASK}1": {"count": 2}}


def test_pixels_go_by_the_lane_of_their_job_and_results_by_that_of_results(hosts):
    here, there = hosts
    there.exchange.open_task(TASK)
    homes = {job: here.node.join(job) for job in ("sharp", "coded")}
    lanes = {"sharp": Lane("block", Raw()), "coded": Lane("latest", Jpeg(95))}
    for job, lane in lanes.items():
        here.peers.visit(job, GRAPH, {there.peers.address: lane})
        here.node.inbox.send(here.frame(100, there.peers.address, job=job))
    worker = there.node.worker().hello().ready(2, 1)  # a frame at a time
    for _ in lanes:
        worker.answer(worker.take())
    for home in homes.values():
        assert home.take().context[TASK]["sample"] == pytest.approx(100, abs=2)
    edges = here.peers.stats().edges[there.peers.address]
    assert lanes["sharp"] == HOME_LANE
    assert {lane: stats.accepted for lane, stats in edges.items()} == dict.fromkeys(edges, 1)
    assert set(edges) == set(lanes.values())


def test_a_job_hears_of_a_frame_that_another_node_drops(hosts):
    here, there = hosts
    home = here.node.join()
    here.peers.visit("job", GRAPH, {there.peers.address: Lane()})
    here.node.inbox.send(here.frame(5, there.peers.address))
    notice = home.dropped()
    assert (notice.seq, notice.reason, notice.task) == (5, "stray", TASK)


def test_a_job_hears_of_a_frame_for_which_another_node_has_no_room(hosts):
    here, there = hosts
    home = here.node.join()
    here.peers.visit("job", GRAPH, {there.peers.address: Lane()})
    kept = [there.exchange.arena.put(np.zeros(NBYTES, np.uint8)) for _ in range(8)]
    here.node.inbox.send(here.frame(5, there.peers.address))
    notice = home.dropped()
    assert (notice.seq, notice.reason) == (5, "arena_full")
    assert notice.where == there.peers.address
    for ref in kept:
        ref.drop()


def test_a_job_hears_of_frames_that_an_edge_gives_up(hosts):
    here, _ = hosts
    nobody = "tcp://127.0.0.1:9"
    home = here.node.join()
    here.peers.visit("job", GRAPH, {nobody: Lane("latest", Raw())})
    for seq in (1, 2):
        here.node.inbox.send(here.frame(seq, nobody))
    notice = home.dropped()
    assert (notice.seq, notice.reason, notice.detail) == (1, "superseded", f"edge to {nobody}")
    here.peers.close()
    assert home.dropped().reason == "closed"


def test_a_job_that_leaves_is_forgotten_by_the_nodes_it_visited(hosts):
    here, there = hosts
    there.exchange.open_task(TASK)
    here.node.join()
    here.peers.visit("job", GRAPH, {there.peers.address: Lane()})
    until(lambda: there.peers.stats().guests == 1)
    here.peers.leave("job")
    here.peers.leave("job")
    until(lambda: there.peers.stats().guests == 0)


def test_a_job_that_falls_silent_is_forgotten(hosts, monkeypatch):
    here, there = hosts
    monkeypatch.setattr(peers, "INTRODUCE_S", 0.05)
    here.node.join()
    here.peers.visit("job", GRAPH, {there.peers.address: Lane()})
    until(lambda: there.peers.stats().guests == 1)
    monkeypatch.setattr(peers, "SILENCE_S", -1.0)
    until(lambda: there.peers.stats().guests == 0)
    monkeypatch.setattr(peers, "SILENCE_S", 10.0)
    until(lambda: there.peers.stats().guests == 1)  # it is introduced again, and again


def test_what_a_job_is_about_may_change(hosts):
    here, there = hosts
    there.exchange.open_task(TASK)
    home = here.node.join()
    worker = there.node.worker().hello().ready(2)
    for graph in (GRAPH, GRAPH + b" "):
        here.peers.visit("job", graph, {there.peers.address: Lane()})
        here.node.inbox.send(here.frame(1, there.peers.address))
        batch = worker.take()
        assert batch.graphs == {"job": graph}
        worker.answer(batch)
        home.take()


def test_another_node_cannot_take_over_a_job_of_this_one(hosts):
    here, there = hosts
    here.node.join("job")
    here.peers.visit("job", GRAPH, {there.peers.address: Lane()})
    there.peers.visit("job", GRAPH, {here.peers.address: Lane()})
    until(lambda: here.peers.stats().refused == 1)
    assert here.peers.stats().guests == 0


def test_nodes_pass_on_nothing_but_what_concerns_jobs(hosts):
    here, there = hosts
    here.peers.visit("job", GRAPH, {there.peers.address: Lane()})
    edge = here.exchange.edges[there.peers.address]
    edge.send(messages.encode(messages.Stop()), None)
    edge.send(messages.encode(messages.Leave("nobody")), None)
    until(lambda: there.peers.stats().refused == 2)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ipc:///tmp/x", "node 'ipc:///tmp/x' is not at a tcp address"),
        ("tcp://192.0.2.1:5020", "address 'tcp://192.0.2.1:5020' is beyond loopback and"),
    ],
)
def test_a_node_that_cannot_be_reached_is_named(hosts, address, message):
    with pytest.raises(ConfigError, match=message):
        hosts[0].peers.visit("job", GRAPH, {address: Lane()})


def test_a_graph_too_large_for_a_notice_is_refused(hosts):
    here, there = hosts
    with pytest.raises(ConfigError, match=r"^graph of job job makes 7\d+ bytes, limit 65536$"):
        here.peers.visit("job", b"x" * 70_000, {there.peers.address: Lane()})


def test_with_keys_a_job_comes_home_to_whoever_has_the_key_it_came_with(tmp_path, plug):
    folders = {name: KeyFolder(tmp_path / name) for name in ("edge", "cloud")}
    pairs = {name: folder.new(name) for name, folder in folders.items()}
    folders["edge"].trust("cloud", pairs["cloud"].public)
    folders["cloud"].trust("edge", pairs["edge"].public)
    with (
        Exchange(tmp_path / "a", classes=[(NBYTES, 4)]) as a,
        Exchange(tmp_path / "b", classes=[(NBYTES, 4)]) as b,
        Peers(a, "tcp://127.0.0.1:0", keys=folders["edge"]) as a_peers,
        Peers(b, "tcp://127.0.0.1:0", keys=folders["cloud"]) as b_peers,
    ):
        here, there = Host(plug(a), a_peers), Host(plug(b), b_peers)
        b.open_task(TASK)
        home = here.node.join()
        with pytest.raises(ConfigError, match="has no name to look its key up by"):
            a_peers.visit("job", GRAPH, {b_peers.address: Lane()})
        a_peers.visit("job", GRAPH, {b_peers.address: Lane()}, {b_peers.address: "cloud"})
        here.node.inbox.send(here.frame(9, b_peers.address))
        worker = there.node.worker().hello().ready()
        assert worker.answer(worker.take()) == [9]
        assert home.take().context == {TASK: {"sample": 9}}


def test_a_frame_goes_on_from_one_node_to_another_before_it_comes_home(hosts, tmp_path, plug):
    here, there = hosts
    with (
        Exchange(tmp_path / "c", classes=[(NBYTES, 8)]) as exchange,
        Peers(exchange, "tcp://127.0.0.1:0") as others,
    ):
        third = Host(plug(exchange), others)
        there.exchange.open_task(TASK)
        third.exchange.open_task(f"{TASK}1")
        home = here.node.join()
        lane = Lane("latest", Jpeg(95))
        lanes = {there.peers.address: lane, third.peers.address: lane}
        onward = {there.peers.address: {third.peers.address}}
        here.peers.visit("job", GRAPH, lanes, onward=onward)
        near = there.node.worker().hello().ready()
        far = third.node.worker("v", f"{TASK}1").hello().ready()
        here.node.inbox.send(here.frame(100, there.peers.address, third.peers.address))
        assert near.answer(near.take(), count=1) == [100]
        assert far.answer(far.take(), count=2) == [100]
        assert home.take().context == {TASK: {"count": 1}, f"{TASK}1": {"count": 2}}
        way = there.peers.stats().edges[third.peers.address]
        assert {lane: stats.accepted for lane, stats in way.items()} == {HOME_LANE: 0, lane: 1}
        here.peers.leave("job")
        until(lambda: not (there.peers.stats().guests or third.peers.stats().guests))


def test_a_way_to_a_node_that_is_not_trusted_costs_only_the_frames_that_go_there(
    tmp_path, plug, caplog
):
    classes = [(NBYTES, 8)]
    keys = {name: KeyFolder(tmp_path / name / "keys") for name in ("a", "b")}
    public = {name: folder.new(name).public for name, folder in keys.items()}
    keys["a"].trust("b", public["b"])
    keys["b"].trust("a", public["a"])
    stranger = KeyFolder(tmp_path / "c").new("c").public
    keys["a"].trust("c", stranger)
    with (
        Exchange(tmp_path / "ea", classes=classes) as a,
        Exchange(tmp_path / "eb", classes=classes) as b,
        Peers(a, "tcp://127.0.0.1:0", keys=keys["a"]) as a_peers,
        Peers(b, "tcp://127.0.0.1:0", keys=keys["b"]) as b_peers,
    ):
        here, there = Host(plug(a), a_peers), Host(plug(b), b_peers)
        there.exchange.open_task(TASK)
        home = here.node.join()
        nobody = "tcp://127.0.0.1:9"
        lanes = {b_peers.address: Lane(), nobody: Lane()}
        names = {b_peers.address: "b", nobody: "c"}
        a_peers.visit("job", GRAPH, lanes, names, {b_peers.address: {nobody}})
        worker = there.node.worker().hello().ready(2)
        here.node.inbox.send(here.frame(1, b_peers.address, nobody))
        worker.answer(worker.take())
        notice = home.dropped()
        assert (notice.reason, notice.detail) == ("unreachable", f"no edge leads to {nobody}")
        here.node.inbox.send(here.frame(2, b_peers.address))
        worker.answer(worker.take())
        assert home.take().header.seq == 2
    assert "no way on for frames of job job: node c is not trusted" in caplog.text


def test_a_frame_that_comes_before_its_job_is_introduced_waits_for_that(hosts, monkeypatch):
    here, there = hosts
    there.exchange.open_task(TASK)
    home = here.node.join()
    worker = there.node.worker().hello().ready()
    notify, kept = Peer.notify, []
    monkeypatch.setattr(Peer, "notify", lambda self, message: kept.append((self, message)))
    here.peers.visit("job", GRAPH, {there.peers.address: Lane("latest", Jpeg(95))})
    here.node.inbox.send(here.frame(100, there.peers.address))
    until(lambda: there.peers.stats().landing.delivered == 1)
    monkeypatch.undo()
    for peer, message in kept:
        notify(peer, message)
    assert worker.answer(worker.take()) == [100]
    assert home.take().header.seq == 100


def test_a_frame_whose_job_nobody_introduces_is_a_stray(hosts, monkeypatch):
    here, there = hosts
    monkeypatch.setattr(Peer, "notify", lambda self, message: False)
    here.node.join()
    here.peers.visit("job", GRAPH, {there.peers.address: Lane()})
    here.node.inbox.send(here.frame(5, there.peers.address))
    there.node.until(lambda stats: stats.dropped == {"stray": 1})
