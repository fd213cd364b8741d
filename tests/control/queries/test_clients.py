"""Programs of the first system, each to a finished query, against the query manager.

The controller's part is played by a desk that schedules nothing: plans come from the tests, which
post them to nodes that want to be posted to.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from desk_kit import FakeDesk, Serving
from node_kit import Caller
from reference_clients import FrontEnd, NewerNode, OldNode
from reference_cloud import OldCloud
from reference_server import Broken

from vdag.control.queries.documents import job_info, job_plan

PIPELINE = ["face_detection", "face_alignment"]
CONF = {"resolution": "480p", "fps": 30, "encoder": "JPEG"}
MAPPING = {
    "face_detection": {"model_id": 0, "node_role": "host", "node_ip": "127.0.0.1"},
    "face_alignment": {"model_id": 0, "node_role": "cloud", "node_ip": "127.0.0.9"},
}
PLAN = {"video_conf": CONF, "flow_mapping": MAPPING, "resource_limit": {}}


@pytest.fixture
def page(serving: Serving) -> Iterator[FrontEnd]:
    page = FrontEnd(serving.url)
    yield page
    page.close()


def finish(page: FrontEnd, desk: FakeDesk, query_id: str, count: int) -> None:
    """See that the page shows what the node has found, also after the query has ended."""
    found = page.show(query_id)
    assert found is not None
    assert [frame["n_loop"] for frame in found["appended_result"]][-1] == count
    page.constrain(query_id, 0.1, 0.8)
    desk.end(query_id, 3, "the video has ended")
    shown = page.show(query_id)
    assert shown is not None
    assert shown["appended_result"] == found["appended_result"]
    assert shown["latest_result"]["plan"] == found["latest_result"]["plan"]


@pytest.mark.parametrize("says_plan_beside", [False, True])
def test_an_old_node_and_the_page_bring_a_query_to_its_end(page, serving, desk, says_plan_beside):
    node = OldNode(serving.url, says_plan_beside=says_plan_beside)
    pusher = Caller(f"http://127.0.0.1:{node.port}")
    try:
        assert page.videos() == []
        node.join()
        assert page.videos() == [f"{node.node_addr}-{number}" for number in (0, 1, 3)]
        assert page.show_nothing() == 404
        query_id = page.submit(f"{node.node_addr}-1", PIPELINE, 0.3, 0.9)
        assert query_id == "GLOBAL_ID_1"
        assert page.show(query_id) is None
        assert pusher.post("/job/submit_job", job_info(desk.live[query_id])).status == 200
        desk.plan(query_id, PLAN)
        assert pusher.post("/job/update_plan", job_plan(desk.live[query_id])).status == 200
        node.wait_planned(query_id)
        node.process(query_id, 30)
        shown = page.show(query_id)
        assert shown is not None
        assert len(shown["appended_result"]) == 11
        assert shown["latest_result"]["plan"]["flow_mapping"] == MAPPING
        finish(page, desk, query_id, 30)
    finally:
        pusher.close()
        node.close()


def test_a_newer_node_asks_for_its_work_and_brings_a_query_to_its_end(page, serving, desk):
    node = NewerNode(serving.url, "192.168.1.7")
    try:
        node.join()
        assert node.node_addr == "192.168.1.7:5001"
        query_id = page.submit("192.168.1.7:5001-3", PIPELINE, None, None)
        node.poll()
        assert node.jobs.keys() == {query_id}
        assert not node.plans
        desk.plan(query_id, PLAN)
        node.poll()
        node.process(query_id, 5)
        runtime = desk.live[query_id].runtime
        assert (runtime["obj_n"], runtime["obj_size"], runtime["delay"]) == (3, 100.0, 0.2)
        desk.plan(query_id, {**PLAN, "video_conf": {**CONF, "resolution": "720p"}})
        node.poll()
        node.process(query_id, 5)
        shown = page.show(query_id)
        assert shown is not None
        confs = [frame["ext_plan"]["video_conf"]["reso"] for frame in shown["appended_result"]]
        assert confs == ["480p"] * 5 + ["720p"] * 5
        finish(page, desk, query_id, 10)
    finally:
        node.close()


def test_an_old_cloud_brings_an_old_node_to_results():
    cloud = OldCloud()
    node = OldNode(cloud.url)
    try:
        node.join()
        node_addr = cloud.wait_joined((0, 1, 3))
        job_uid = cloud.submit(node_addr, 1, PIPELINE, {"delay": 0.3, "accuracy": 0.9})
        assert cloud.get_runtime(node_addr, job_uid) == {}
        cloud.plan(node_addr, job_uid, CONF, MAPPING)
        node.process(job_uid, 3)
        found = cloud.wait_results(job_uid, 3)
        assert [frame["n_loop"] for frame in found] == [1, 2, 3]
        assert cloud.get_runtime(node_addr, job_uid)["obj_n"] == 8.0
        cloud._count = 0  # a job of that id is there
        with pytest.raises(Broken, match=r"^/job/submit_job: 500 b'<!doctype html>'$"):
            cloud.submit(node_addr, 1, PIPELINE, {})
    finally:
        node.close()
        cloud.close()


def test_an_old_cloud_that_is_asked_brings_a_newer_node_to_results():
    cloud = OldCloud()
    node = NewerNode(cloud.url, "127.0.0.1")
    try:
        node.join()
        node_addr = cloud.wait_joined((0, 1, 3))
        job_uid = cloud.submit(node_addr, 1, PIPELINE, {"delay": 0.3}, pull=True)
        cloud.plan(node_addr, job_uid, {"reso": "360p", "fps": 30, "encoder": "JPEG"}, MAPPING,
                   pull=True)  # fmt: skip
        node.poll()
        node.process(job_uid, 2)
        assert len(cloud.wait_results(job_uid, 2)) == 2
        assert len(cloud.runtimes[job_uid]) == 2
    finally:
        node.close()
        cloud.close()


def test_the_page_says_what_it_could_not_stand(serving, desk, store, page):
    class Empty(FrontEnd):
        def _json(self, reply):
            return {"appended_result": [], "latest_result": {}}

    empty = Empty(serving.url)
    with pytest.raises(Broken, match=r"^the chart begins with nothing"):
        empty.show("GLOBAL_ID_1")
    empty.close()
    page.has_chart = True
    with pytest.raises(Broken, match=r"^the chart is lost: 404"):
        page.show("GLOBAL_ID_1")
