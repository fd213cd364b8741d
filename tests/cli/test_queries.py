"""The commands that speak to a query manager, against a node that does everything."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from command_kit import FRAMES, POLICY, Vdag, plan_file, rows
from node_kit import ROOT, Caller, Running

pytestmark = pytest.mark.slow  # as a whole


@pytest.fixture
def submit(ask: Vdag, address: str) -> Iterator[Callable[..., str]]:
    """Submit a query, which is forgotten after the test, and return its id."""
    ids: list[str] = []

    def run(*arguments: str) -> str:
        ended = ask("submit", "brightness", "--node", address, *arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
        ids.append(ended.stdout.strip())
        assert re.fullmatch(r"GLOBAL_ID_\d+", ids[-1])
        return ids[-1]

    yield run
    for query in ids:
        ask("stop", query, "--delete")


@pytest.fixture
def over(ask: Vdag, submit) -> str:
    """A query whose video is over, and all of whose results are there."""
    query = submit("--video", "1", "--delay", "0.5", "--accuracy", "0.9")
    ended = ask("results", query, "--follow", "--after", "0")
    assert (ended.returncode, ended.stderr) == (0, f"{query} has ended: the video is over\n")
    assert len(ended.stdout.splitlines()) == FRAMES
    return query


# --- queries ------------------------------------------------------------------------------------


def test_a_query_is_submitted_and_followed_to_its_end(ask: Vdag, address: str):
    ended = ask("submit", "brightness", "--node", address, "--video", "1", "--follow")
    query, *frames = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, f"{query} has ended: the video is over\n")
    for number, line in enumerate(frames):
        pattern = rf"frame {number}  plan 1  delay \d+ ms \(brightness \d+\)  total=1"
        assert re.fullmatch(pattern, line)
    assert len(frames) == FRAMES
    assert ask("stop", query, "--delete").stdout == "query deleted\n"


def test_queries_are_listed_with_what_is_wanted_of_them(ask: Vdag, over, submit, address):
    running = submit()
    listed = rows(ask("queries", "--limit", "2"))
    assert listed == [
        ["query", "state", "video", "tasks", "constraint", "policy", "plan"],
        [over, "ended: the video is over", f"{address}/1", "brightness",
         "delay 0.5, accuracy 0.9", "golden", "1"],
        [running, *listed[2][1:2], f"{address}/0", "brightness", *listed[2][4:]],
    ]  # fmt: skip
    assert [row[0] for row in rows(ask("queries", "--live"))] == ["query", running]


def test_a_query_that_cannot_be_planned_says_why(ask: Vdag, address: str):
    query = ask("submit", "crystal_ball", "--node", address).stdout.strip()
    (_, listed) = rows(ask("queries", "--live"))
    assert listed[:2] == [query, "unscheduled: policy golden: no live node offers crystal_ball"]
    assert ask("plan", query).stdout == f"{query} has no plan yet\n"
    assert ask("stop", query).stdout == "query stopped\n"
    (_, listed) = rows(ask("queries", "--limit", "1"))
    assert listed[:2] == [query, "ended: stopped"]
    ask("stop", query, "--delete")


def test_a_query_that_is_stopped_keeps_its_results_until_it_is_deleted(ask: Vdag, over: str):
    assert ask("stop", over).stdout == "query was over\n"
    assert len(ask("results", over).stdout.splitlines()) == 11
    assert ask("stop", over, "--delete").stdout == "query deleted\n"
    ended = ask("results", over)
    number = over.removeprefix("GLOBAL_ID_")
    assert (ended.returncode, ended.stderr) == (2, f"vdag: query {number} is not known\n")


# --- results ------------------------------------------------------------------------------------


def test_results_are_the_newest_or_those_after_one(ask: Vdag, over: str):
    newest = ask("results", over, "--json").stdout.splitlines()
    assert [json.loads(line)["n_loop"] for line in newest] == list(range(10, FRAMES + 1))
    rest = ask("results", over, "--json", "--after", "17").stdout.splitlines()
    assert rest == newest[-3:]
    assert ask("results", over, "--after", str(FRAMES)).stdout == ""


def test_every_key_of_a_result_is_in_the_documentation(ask: Vdag, over: str):
    frame = json.loads(ask("results", over, "--json", "--after", str(FRAMES - 1)).stdout)
    text = (ROOT / "docs" / "queries.md").read_text()
    context, info = frame["ext_runtime"], frame["proc_resource_info"]
    keys = {
        *frame,
        *context,
        *info,
        *context["plan_result"],
        *frame["ext_plan"],
        *frame["task_conf"],
    }
    assert {key for key in keys - {"brightness"} if f"`{key}`" not in text} == set()
    assert frame["brightness"] > 0
    assert (frame["frame_id"], frame["n_loop"], frame["plan"]) == (FRAMES - 1, FRAMES, 1)
    assert frame["ext_plan"]["flow_mapping"]["brightness"]["node_ip"] == info["node_ip"]
    assert frame["delay"] >= info["compute_latency"]


def test_results_of_a_node_that_says_little_are_shown(ask: Vdag, cloud: Running):
    caller = Caller(cloud.urls["cloud"])
    video = {"node_ip": "127.0.0.1", "node_port": 1, "video_id": 0, "video_type": "street"}
    name = caller.post("/node/join", video).json()["node_addr"]
    query = ask("submit", "car_detection", "--node", name).stdout.strip()
    for result in (4, {"n_loop": 7, "car": 2, "ext_runtime": {"proc_resource_info": {"pid": 1}}}):
        caller.post(
            "/query/sync_result", {"job_uid": query, "job_result": {"appended_result": result}}
        )
    ended = ask("results", query)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "frame ?  plan ?  delay ? ms ()  total=4",
        "frame ?  plan ?  delay ? ms ()  car=2",
    ]
    assert ask("top", "--once").returncode == 0
    assert caller.ask("DELETE", f"/query/{query}").json()["msg"] == "query deleted"
    caller.close()


def test_results_that_are_followed_end_with_the_query(ask: Vdag, start_vdag, cloud, submit):
    query = submit()
    url = cloud.urls["cloud"]
    with start_vdag("results", query, "--follow", "--json", "--cloud", url) as following:
        numbers = [json.loads(following.stdout.readline())["n_loop"] for _ in range(5)]
        assert numbers == list(range(numbers[0], numbers[0] + 5))
        assert ask("stop", query).stdout == "query stopped\n"
        _, said = following.communicate()
    assert (following.returncode, said) == (0, f"{query} has ended: stopped\n")


# --- plans --------------------------------------------------------------------------------------


def test_a_plan_from_a_file_is_kept_to(ask: Vdag, submit, tmp_path):
    conf = {"resolution": "480p", "fps": 5, "encoder": "JPEG"}
    mapping = {"brightness": {"node_role": "host", "node_ip": "127.0.0.1", "model_id": 0}}
    path = plan_file(tmp_path, {"video_conf": conf, "flow_mapping": mapping})
    query = submit("--video", "1", "--plan", str(path))
    ask("results", query, "--follow", "--after", "0")
    ended = ask("plan", query, "--history", "5")
    assert re.fullmatch(
        r"plan 1: 480p, 5 fps, JPEG  submitted\n  brightness: host 127\.0\.0\.1:\d+, model 0\n",
        ended.stdout,
    )
    assert ask("plan", query).stdout == ended.stdout.replace("  submitted", "")
    assert rows(ask("queries", "--limit", "1"))[1][-2:] == ["static", "1"]


def test_a_users_policy_goes_down_while_results_are_late(
    ask: Vdag, start_vdag, cloud, submit, address
):
    query = submit("--policy", POLICY, "--delay", "0.00001")
    url = cloud.urls["cloud"]
    with start_vdag("results", query, "--follow", "--json", "--cloud", url) as following:
        frame = json.loads(following.stdout.readline())
        while frame["plan"] < 3:
            frame = json.loads(following.stdout.readline())
    assert frame["task_conf"]["resolution"] == {"w": 480, "h": 360}
    plans = ask("plan", query, "--history", "9").stdout.splitlines()
    assert plans[0::2] == [
        "plan 1: 540p, 10 fps, JPEG  submitted",
        "plan 2: 480p, 10 fps, JPEG  period",
        "plan 3: 360p, 10 fps, JPEG  period",
    ]
    assert set(plans[1::2]) == {f"  brightness: host {address}, model 0"}


# --- top ----------------------------------------------------------------------------------------


def test_top_shows_nodes_queries_and_their_tasks(
    ask: Vdag, start_vdag, cloud, submit, address, over
):
    query = submit("--delay", "60")
    with start_vdag("results", query, "--follow", "--cloud", cloud.urls["cloud"]) as following:
        assert following.stdout.readline()
    found = rows(ask("top", "--once"))
    assert found[0] == ["node", "videos", "jobs"]
    assert [address, "0 test pattern, 1", query] in found[1:-3]
    assert found[-3] == ["job", "state", "plan", "fps", "delay", "wanted", "objects", "dropped"]
    assert found[-2][:3] == [query, "running", "1"]
    assert found[-1][0] == "brightness"


# --- documentation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "heading", "sections"),
    [
        ("queries.md", "### Queries, :5000", ["cloud"]),
        ("queries.md", "### Jobs, :5001", ["edge"]),
        ("queries.md", "### Live pictures, :5100 and :5101", ["cloud.live", "edge.live"]),
        ("service.md", "## Endpoints", ["service"]),
    ],
    ids=["cloud", "edge", "live", "service"],
)
def test_the_documentation_has_every_endpoint_and_no_other(cloud: Running, page, heading, sections):
    text = (ROOT / "docs" / page).read_text().partition(f"{heading}\n")[2]
    rows = re.split(r"^##", text, maxsplit=1, flags=re.MULTILINE)[0]
    told = set(re.findall(r"`(?:[A-Z]+\s+)?(/[^`?\s]+)`", rows))
    there: set[str] = set()
    for section in sections:
        caller = Caller(cloud.urls[section])
        there |= caller.get("/openapi.json").json()["paths"].keys()
        caller.close()
    assert told - {"/docs"} == there


def test_a_portrait_has_what_the_documents_say_of_each_task(cloud: Running, over: str):
    caller = Caller(cloud.urls["cloud"])
    portrait = caller.get(f"/query/get_portrait_info/{over}").json()
    caller.close()
    assert portrait["user_constraint"] == {"delay": 0.5, "accuracy": 0.9}
    assert portrait["cur_latency"] >= portrait["cur_process_latency"] > 0
    assert portrait["process_delay"].keys() == portrait["delay"].keys() == {"brightness"}
    task = portrait["resource_portrait"]["brightness"]
    assert (task["node_ip"], task["node_role"], task["cpu_util_limit"]) == ("127.0.0.1", "cloud", 1)
    assert portrait["available_resource"].keys() == {"127.0.0.1"}
    assert portrait["exe_plan"]["flow_mapping"].keys() == {"brightness"}


# --- explain ------------------------------------------------------------------------------------


def explained(ask: Vdag, query: str) -> Any:
    """What is said of a query, once something was measured under its plan."""
    deadline_s = time.monotonic() + 120
    while True:
        ended = ask("explain", query, "--json")
        assert (ended.returncode, ended.stderr) == (0, "")
        found = json.loads(ended.stdout)
        if any(each.get("measured", {}).get("reports") for each in found["decisions"]):
            return found
        assert time.monotonic() < deadline_s, found


def test_a_decision_is_explained_with_what_was_foretold_and_measured(ask: Vdag, submit):
    query = submit("--delay", "0.5", "--accuracy", "0.5", "--policy", "predictive")
    found = explained(ask, query)
    assert found["user_constraint"] == {"delay": 0.5, "accuracy": 0.5}
    first = found["decisions"][0]
    assert (first["number"], first["cause"], first["policy"]) == (1, "submitted", "predictive")
    assert first["explanation"]["why"]
    assert first["explanation"]["predicted"]["delay_p95"] > 0
    assert first["plan"]["flow_mapping"]["brightness"]["node_role"] == "host"
    shown = ask("explain", query, "--plans", "1000").stdout
    assert re.search(rf"{query}: delay 0.5, accuracy 0.5; policy predictive", shown)
    assert re.search(r"plan 1 at \d\d:\d\d:\d\d, submitted, by predictive", shown)
    assert re.search(r"foretold +\d+ ms +\d+ ms", shown)
    assert re.search(r"measured +\d+ ms +\d+ ms .* \d+% of \d+ reports in time", shown)


def test_a_bound_that_cannot_be_kept_is_said_with_the_best_there_is(ask: Vdag, submit):
    query = submit("--delay", "0.0001", "--policy", "predictive")
    found = explained(ask, query)
    bound = found["decisions"][0]["explanation"]["bound"]
    assert (bound["what"], bound["limit"]) == ("delay", 0.0001)
    assert bound["best"] > bound["limit"]
    text = "delay of 0.0001 cannot be kept: the best there is is"
    assert text in ask("explain", query).stdout
    assert text in ask("plan", query).stdout


def test_a_query_that_is_not_there_cannot_be_explained(ask: Vdag):
    ended = ask("explain", "GLOBAL_ID_999")
    assert ended.returncode == 2
    assert ended.stderr == "vdag: query 999 is not known\n"
