"""What is left when a node is killed: queries, jobs and results go on, and what is lost is counted.

The times are those that users are promised, from what brings a thing about to when it is seen by
asking; each look costs some time itself, which is in `MARGIN_S`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts_kit import Hosts
from system_kit import System, until

FIRST, SECOND = CHAIN = ["first", "second"]
#: Only one node does it.
LONE = "lone"
FPS = 10
MAX_IN_FLIGHT = 4
#: Nodes are with a new cloud, a lost host is shown, a lost task is placed elsewhere.
REJOINED_S, SUSPENDED_S, PLACED_S = 5.0, 5.0, 3.0
MARGIN_S = 1.0


@pytest.fixture(scope="module")
def hosts(make_hosts) -> Hosts:
    return make_hosts(3)


@pytest.fixture
def system(hosts: Hosts, tasks, clips: Path, tmp_path) -> Iterator[System]:
    video = {"path": str(clips / "bikes.mp4"), "loop": True, "policy": "block"}
    with System(
        hosts,
        tmp_path,
        modules=tasks,
        tasks={"cloud": CHAIN, "edge1": CHAIN, "edge2": [*CHAIN, LONE]},
        videos={"edge1": {"0": video}},
        cloud={"results_kept": 100_000},
        edge={"max_in_flight": MAX_IN_FLIGHT},
    ) as system:
        yield system
        system.end_well()


def submit(system: System, *places: str, tasks: list[str] = CHAIN) -> str:
    plan = {
        "video_conf": {"resolution": "320x136", "fps": FPS, "encoder": "JPEG"},
        "flow_mapping": system.place(**dict(zip(tasks, places, strict=True))),
    }
    query = system.submit("edge1", 0, tasks, policy="static", plan=plan)
    system.wait_results(query, FPS)
    return query


def lost(found: list[dict[str, Any]]) -> int:
    """Check the order of results, and return how many frames are missing between them."""
    assert [each["n_loop"] for each in found] == list(range(1, len(found) + 1))
    seqs = [each["seq"] for each in found]
    assert seqs == sorted(set(seqs))
    return seqs[-1] - seqs[0] + 1 - len(seqs)


@pytest.mark.slow
def test_a_cloud_that_was_killed_has_everything_and_misses_nothing(system: System):
    query = submit(system, "edge1", "edge2")
    cloud, edge = system.nodes["cloud"], system.nodes["edge1"]
    before = list(system.results(query))
    plans = system.history(query)
    marks = {name: len(node.log) for name, node in system.nodes.items()}
    cloud.kill()
    edge.wait_for("no answer from", marks["edge1"])  # it works alone, and keeps what it finds
    cloud.start()
    served_ns = cloud.wait_for(r"cloud at http://", marks["cloud"])[0]
    took_s = {}
    for name in ("edge1", "edge2"):
        joined_ns = system.nodes[name].wait_for("joined the controller", marks[name])[0]
        took_s[name] = (joined_ns - served_ns) / 1e9
    assert max(took_s.values()) < REJOINED_S + MARGIN_S
    back = system.wait_results(query, 1, after=len(before))
    system.wait_results(query, 5 * FPS, after=back["n_loop"])
    found = list(system.results(query))
    assert found[: len(before)] == before
    assert lost(found) == 0
    assert system.drops(query) == {}
    assert system.history(query) == plans
    assert {each["plan"] for each in found} == {1}
    assert "job GLOBAL_ID_1 is ready" not in "".join(edge.log[marks["edge1"] :])
    until(lambda: system.query(query)["state_name"] == "running")
    assert not system.query(query)["suspended"]
    assert submit(system, "edge1", "edge2") == "GLOBAL_ID_2"
    print(f"\nrejoined after the cloud served by {took_s} s, {len(found)} results")


@pytest.mark.slow
def test_a_query_whose_node_was_killed_is_suspended_and_resumes(system: System):
    query = submit(system, "edge1", "cloud")
    edge = system.nodes["edge1"]
    killed_s = edge.kill()
    until(lambda: system.query(query)["suspended"])
    suspended_s = time.monotonic() - killed_s
    assert suspended_s < SUSPENDED_S + MARGIN_S
    before = list(system.results(query))
    edge.start()
    back_s = time.monotonic()
    system.wait_results(query, 2 * FPS, after=len(before))
    resumed_s = time.monotonic() - back_s
    state = system.query(query)
    assert (state["state_name"], state["suspended"]) == ("running", False)
    found = list(system.results(query))
    assert found[: len(before)] == before
    assert [each["n_loop"] for each in found] == list(range(1, len(found) + 1))
    print(f"\nsuspended after {suspended_s:.2f} s, 20 frames {resumed_s:.2f} s after its return")


@pytest.mark.slow
def test_tasks_of_a_node_that_was_killed_are_done_elsewhere(system: System):
    query = submit(system, "edge1", "edge2")
    edge = system.nodes["edge2"]
    killed_s = edge.kill()
    moved = until(lambda: next((p for p in system.history(query) if p["number"] > 1), None))
    placed_s = time.monotonic() - killed_s
    assert placed_s < PLACED_S + MARGIN_S
    assert moved["cause"] == "node lost"
    assert moved["flow_mapping"][SECOND]["node_addr"] != edge.node_addr
    system.wait_newest(query, lambda frame: frame["plan"] > 1)
    going_s = time.monotonic() - killed_s
    state = system.query(query)
    assert (state["state_name"], state["suspended"]) == ("running", False)
    system.cloud.post("/query/stop", {"query_id": query})
    system.wait_state(query, "ended")
    missing = lost(list(system.results(query)))
    drops = system.drops(query)
    print(f"\nplaced after {placed_s:.2f} s, results after {going_s:.2f} s, lost {drops}")
    assert 0 < missing <= MAX_IN_FLIGHT
    assert sum(drops.values()) - drops.get("closed", 0) == missing
    edge.start()  # and what it left in shared memory is swept


@pytest.mark.slow
def test_a_query_goes_on_when_the_only_node_with_a_task_is_back(system: System):
    query = submit(system, "edge1", "edge2", tasks=[FIRST, LONE])
    edge = system.nodes["edge2"]
    edge.kill()
    until(lambda: "no live node offers lone" in system.query(query)["fault"])
    before = list(system.results(query))
    mark = len(edge.log)
    edge.start()
    joined_s = edge.wait_for("joined the controller", mark)[0] / 1e9
    system.wait_results(query, 1, after=len(before))
    resumed_s = time.monotonic() - joined_s
    system.wait_results(query, FPS, after=len(before))
    found = list(system.results(query))
    missing = lost(found)
    until(lambda: system.drops(query) == {"unreachable": missing})
    assert 0 < missing <= MAX_IN_FLIGHT
    assert resumed_s < PLACED_S + MARGIN_S
    print(f"\nresults {resumed_s:.2f} s after its return, lost {system.drops(query)}")
