"""The query manager with the real controller behind it: a newer node, the page, and a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from desk_kit import Serving
from node_kit import Caller
from reference_clients import FrontEnd, NewerNode

from vdag.control.controller import Controller, ControllerSettings
from vdag.control.queries import Parts
from vdag.control.records import Store

PIPELINE = ["face_detection", "face_alignment"]
#: Questions of a node until its work is there; each is a round trip through the controller.
POLLS = 10_000


@contextmanager
def cloud(folder: Path) -> Iterator[tuple[str, Controller]]:
    settings = ControllerSettings(channel="tcp://127.0.0.1:0")
    with (
        Store(folder / "records.sqlite") as store,
        Controller(store, settings) as controller,
    ):
        serving = Serving(Parts(controller, store))
        try:
            yield serving.url, controller
        finally:
            serving.close()


def poll_until(node: NewerNode, is_there: Callable[[], Any]) -> None:
    for _ in range(POLLS):
        node.poll()
        if is_there():
            return
    raise AssertionError(f"jobs {node.jobs}, plans {node.plans}")


def test_a_newer_node_and_the_page_bring_a_query_to_its_end(tmp_path):
    with cloud(tmp_path) as (url, controller):
        node, page, caller = NewerNode(url, "127.0.0.1"), FrontEnd(url), Caller(url)
        node.join()
        choice = f"{node.node_addr}-1"
        assert choice in page.videos()
        query_id = page.submit(choice, PIPELINE, 0.3, 0.9)
        assert query_id == "GLOBAL_ID_1"
        assert page.show(query_id) is None
        poll_until(node, lambda: query_id in node.plans)
        node.process(query_id, 20)
        shown = page.show(query_id)
        assert shown is not None
        assert [frame["n_loop"] for frame in shown["appended_result"]] == list(range(10, 21))
        page.constrain(query_id, 0.1, 0.8)
        runtime = caller.get(f"/query/get_runtime/{query_id}").json()
        assert (runtime["obj_n"], runtime["delay"]) == (3, 0.2)
        plan = caller.get(f"/query/get_plan/{query_id}?history=5").json()
        assert plan["flow_mapping"].keys() == set(PIPELINE)
        assert plan["history"][0]["cause"] == "submitted"
        reply = caller.post("/query/stop", {"query_id": query_id}).json()
        assert reply["msg"] == "query stopped"
        (listed,) = caller.get("/query/list").json()["queries"]
        assert (listed["state_name"], listed["user_constraint"]) == (
            "ended", {"delay": 0.1, "accuracy": 0.8},
        )  # fmt: skip
        assert page.show(query_id) is not None
        assert controller.queries() == () or controller.query(query_id) is not None
        for client in (node, page, caller):
            client.close()


def test_a_query_goes_on_after_the_cloud_was_restarted(tmp_path):
    with cloud(tmp_path) as (url, _):
        node, page = NewerNode(url, "127.0.0.1"), FrontEnd(url)
        node.join()
        query_id = page.submit(f"{node.node_addr}-1", PIPELINE, 0.3, 0.9)
        poll_until(node, lambda: query_id in node.plans)
        node.process(query_id, 3)
        before = page.show(query_id)
        assert before is not None
        page.close()
        node.close()
    with cloud(tmp_path) as (url, _):
        page = FrontEnd(url)
        shown = page.show(query_id)
        assert shown is not None
        assert shown["appended_result"] == before["appended_result"]
        later = NewerNode(url, "127.0.0.1")
        later.join()
        poll_until(later, lambda: query_id in later.plans)
        later.process(query_id, 2)  # it counts from 1 again
        shown = page.show(query_id)
        assert shown is not None
        assert [frame["n_loop"] for frame in shown["appended_result"]] == [1, 2, 3, 4, 5]
        assert page.submit(f"{later.node_addr}-0", PIPELINE, 0.3, 0.9) == "GLOBAL_ID_2"
        page.close()
        later.close()
