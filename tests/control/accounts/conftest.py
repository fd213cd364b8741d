"""The records of a session, its account, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from packet_kit import CLOUD, EDGE, EPOCH_S, WAIT_S, keep, open_session, rows_of
from page_kit import CHANGES_S, TRUTHS, Page, account_of

from vdag.control.accounts import Account, render
from vdag.control.records import NewQuery, NodeSample, Store
from vdag.control.records.opening import open_engine
from vdag.graph import Graph


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of a query with two plans, of nodes under load and frames that were lost."""
    place = tmp_path_factory.mktemp("records") / "records.db"
    dag = Graph.chain("face_detection", "face_alignment").to_dag()
    with Store(place) as store:
        asked = NewQuery("n", 1, dag, {"delay": 0.5}, policy="predictive")
        query_id = store.add_query(asked).result(WAIT_S)
        open_session(store, query_id=1, name=query_id)
        for number in (1, 2):
            documents = {
                "video_conf": {"resolution": "720p", "fps": 10 * number, "encoder": "JPEG"},
                "flow_mapping": {"face_detection": {"node_ip": "192.0.2.2", "model_id": 0}},
            }
            store.add_plan(query_id, number, documents, f"cause {number}")
            decision = {"explanation": {"why": f"reason {number}"}}
            store.set_decision(query_id, number, decision)
        store.set_dropped(query_id, {"late": 5, "queue full": 2}, run="a")
        store.set_dropped(query_id, {"late": 1}, run="b")
        loads = [
            NodeSample(EPOCH_S + at_s / 8, node, cpu, 1024, 25.0, gpu)
            for node, cpu, gpu in ((EDGE, 40.0, None), (CLOUD, 80.0, 60), (9, 1.0, 1))
            for at_s in range(104)
        ]
        keep(store, rows_of(TRUTHS), nodes=loads)
        store.committed().result(WAIT_S)
    _date_plans(place)
    return place


def _date_plans(place: Path) -> None:
    """Set the times that the store takes from the clock."""
    from sqlalchemy import text

    engine = open_engine(place)
    with engine.begin() as connection:
        for number, at_s in enumerate(CHANGES_S, 1):
            connection.execute(
                text("UPDATE plan SET at_s = :at WHERE number = :n"), {"at": at_s, "n": number}
            )
        moved = {"at": EPOCH_S}
        connection.execute(text("UPDATE placement SET since_s = :at"), moved)
    engine.dispose()


@pytest.fixture(scope="module")
def account(place: Path) -> Account:
    return account_of(place, "GLOBAL_ID_1")


@pytest.fixture(scope="module")
def page(account: Account) -> Page:
    return Page(render(account))
