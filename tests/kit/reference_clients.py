"""Programs that were written against the first system, as far as they talk: strict, and old.

`OldNode` is a job manager that is posted jobs and plans; `NewerNode` asks for them; `FrontEnd` is
the web page. Each sends what the real program sends and insists on what the real one insists on:
what they accept, it would. They work when they are told to: nothing here runs by a clock.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from node_kit import Caller
from reference_server import WAIT_S, Broken, Document, Server

VIDEOS = {0: "student in classroom", 1: "people in meeting-room", 3: "traffic flow outdoor"}


class _Node:
    """What nodes of both dialects have."""

    def __init__(self, cloud_url: str) -> None:
        self._cloud = Caller(cloud_url)
        self._n_loops: dict[str, int] = {}
        self.node_addr = ""

    def close(self) -> None:
        self._cloud.close()

    def _join(self, port: int, **more: Any) -> None:
        for number, words in VIDEOS.items():
            joining = {"node_port": port, "video_id": number, "video_type": words, **more}
            self.node_addr = self._post("/node/join", joining)["node_addr"]

    def _post(self, path: str, body: Any) -> Any:
        reply = self._cloud.post(path, body)
        if reply.status != 200:
            raise Broken(f"{path}: {reply.status} {reply.body!r}")
        return reply.json()

    def _frame(self, job_uid: str, counts: Mapping[str, int]) -> Document:
        n_loop = self._n_loops[job_uid] = self._n_loops.get(job_uid, 0) + 1
        return {
            "count_result": dict(counts),
            "frame_id": float(n_loop),
            "n_loop": n_loop,
            "delay": 0.2,
        }


class OldNode(_Node):
    """A job manager of the push dialect.

    Args:
        cloud_url: of the query manager.
        says_plan_beside: as an earlier version does: plans in `latest_result`, runtimes only when
            they are asked for.
    """

    def __init__(self, cloud_url: str, *, says_plan_beside: bool = False) -> None:
        super().__init__(cloud_url)
        self._says_plan_beside = says_plan_beside
        self._changed = threading.Condition()
        self.jobs: dict[str, Document] = {}
        self.plans: dict[str, Document] = {}
        self._runtimes: dict[str, Document] = {}
        self._server = Server(self._handle)
        self.port = self._server.port

    def join(self) -> None:
        """Register its videos, as it does once when it starts."""
        self._join(self.port)

    def wait_planned(self, job_uid: str) -> Document:
        """Wait until a job was posted and planned; return its plan."""
        with self._changed:
            if not self._changed.wait_for(lambda: job_uid in self.plans, WAIT_S):
                raise Broken(f"{job_uid} was not planned: {self._server.requests}")
            return self.plans[job_uid]

    def forget_plan(self, job_uid: str) -> None:
        """Forget a plan, so that the next one can be waited for."""
        with self._changed:
            self.plans.pop(job_uid, None)

    def process(self, job_uid: str, count: int) -> None:
        """Process frames under the present plan, and post a result each."""
        for _ in range(count):
            with self._changed:
                job, plan = self.jobs[job_uid], self.plans[job_uid]
            missing = set(job["pipeline"]) - plan["flow_mapping"].keys()
            if missing:  # KeyError, which ends the thread of the job
                raise Broken(f"plan has no {missing}")
            runtime = {"delay": 0.2, "obj_n": 8.0, "obj_size": 2335.9, "obj_stable": True}
            self._runtimes[job_uid] = runtime
            frame = self._frame(job_uid, {"up": 6, "total": 8})
            echo = {name: plan[name] for name in ("video_conf", "flow_mapping")}
            result: Document
            if self._says_plan_beside:
                result = {"appended_result": frame, "latest_result": {"plan": echo}}
            else:
                result = {"appended_result": {**frame, "ext_plan": echo, "ext_runtime": runtime}}
            self._post("/query/sync_result", {"job_uid": job_uid, "job_result": result})

    def close(self) -> None:
        """End it, as when it is killed."""
        self._server.close()
        super().close()

    def _handle(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        with self._changed:
            self._changed.notify_all()
            if (method, path) == ("POST", "/job/submit_job"):
                assert body["job_uid"] not in self.jobs
                assert isinstance(body["pipeline"], list)
                assert body["video_id"] in VIDEOS
                assert body["node_addr"]
                self.jobs[body["job_uid"]] = body
                text = "submitted to manager from api: node/submit_job"
                return 200, {"job_uid": body["job_uid"], "msg": text, "status": 0}
            if (method, path) == ("POST", "/job/update_plan"):
                assert body["job_uid"] in self.jobs
                assert body["video_conf"]["fps"] > 0
                assert {"resolution", "encoder"} <= body["video_conf"].keys()
                for place in body["flow_mapping"].values():
                    assert {"node_ip", "node_role", "model_id"} <= place.keys()
                self.plans[body["job_uid"]] = body
                return 200, {"msg": "node updated plan (manager.update_job_plan)", "status": 0}
            if method == "GET" and path.startswith("/job/get_runtime/"):
                job_uid = path.rpartition("/")[2]
                assert job_uid in self.jobs
                return 200, self._runtimes.get(job_uid, {})
        return 404, {}


class NewerNode(_Node):
    """A job manager of the pull dialect, which has no port of its own.

    Args:
        cloud_url: of the query manager.
        ip: that it says is its own.
    """

    def __init__(self, cloud_url: str, ip: str) -> None:
        super().__init__(cloud_url)
        self._ip = ip
        self.jobs: dict[str, Document] = {}
        self.plans: dict[str, Document] = {}

    def join(self) -> None:
        """Register its videos, as it does once when it starts."""
        self._join(5001, node_ip=self._ip)

    def poll(self) -> None:
        """Ask for work, as it does every 4 seconds."""
        units = {"bps": 8e7, "kbps": 8e4, "Mbps": 80.0, "kB/s": 10000.0, "MB/s": 10.0}
        asked = {"node_addr": self.node_addr, "bandwidth": units}
        found = self._post("/query/get_jobs_info_and_jobs_plan", asked)
        for job_uid, info in found["jobs_info"].items():
            assert info["job_uid"] == job_uid
            assert job_uid not in self.jobs, "a job is handed out once"
            assert info["video_id"] in VIDEOS
            assert info["node_addr"] == self.node_addr
            self.jobs[job_uid] = info
        for job_uid, plan in found["jobs_plan"].items():
            if job_uid in self.jobs:
                self.plans[job_uid] = plan

    def process(self, job_uid: str, count: int) -> None:
        """Process frames under the present plan; post a result and what was measured for each."""
        for _ in range(count):
            job, plan = self.jobs[job_uid], self.plans[job_uid]
            conf = plan["video_conf"]
            assert {"reso", "fps", "encoder"} <= conf.keys()
            frame = self._frame(job_uid, {"total": 3})
            echo = {name: plan[name] for name in ("video_conf", "flow_mapping", "resource_limit")}
            tasks = {task: 0.1 for task in job["pipeline"]}
            infos = {task: self._info(plan, task) for task in job["pipeline"]}
            runtime = {
                "plan_result": {"delay": tasks, "process_delay": tasks},
                "proc_resource_info": infos,
            }
            extra = {"proc_delay": 0.1, "bandwidth": 1e4, "data_trans_size": {}, "obj_n": 3,
                     "task_conf": conf, "proc_resource_info": infos}  # fmt: skip
            result = {"appended_result": {**frame, **extra, "ext_plan": echo,
                                          "ext_runtime": runtime}}  # fmt: skip
            self._post("/query/sync_result", {"job_uid": job_uid, "job_result": result})
            outputs = {
                task: {"faces": ["b'\\xff\\xd8\\xff'"], "bbox": [[0, 0, 10, 10]] * 3,
                       "prob": [0.9] * 3, "proc_resource_info": infos[task], "task_conf": conf}
                for task in job["pipeline"]
            }  # fmt: skip
            measured = {
                **outputs,
                "end_pipe": {"delay": 0.2, "process_delay": 0.1, "frame_id": frame["frame_id"],
                             "n_loop": frame["n_loop"]},
                "user_constraint": job["user_constraint"],
                "data_trans_size": {task: 1000 for task in tasks},
                "process_delay": tasks, "delay": tasks, "exe_plan": echo,
                "frame": "b'\\xff\\xd8'", "cap_fps": 30.0, "adjacent_frames": ["b'\\xff'"],
                "bandwidth": {"kB/s": 1e4}, "data_to_cloud": 2000,
            }  # fmt: skip
            self._post("/query/sync_runtime", {"job_uid": job_uid, "job_runtime": measured})

    def _info(self, plan: Document, task: str) -> Document:
        """Return what a service says of its process, with what the node adds to it."""
        place, limit = plan["flow_mapping"][task], plan["resource_limit"][task]
        return {
            "pid": 1, "cpu_util_use": 0.2, "mem_util_use": 0.01, "compute_latency": 0.1,
            "all_latency": 0.12, "node_ip": place["node_ip"], "node_role": place["node_role"],
            "cpu_util_limit": limit["cpu_util_limit"], "mem_util_limit": limit["mem_util_limit"],
        }  # fmt: skip


class FrontEnd:
    """The web page: what it asks for, what it reads, and where it breaks.

    Args:
        dag_url: of the query manager.
        serv_url: of a compute service; empty if there is none to ask.
    """

    def __init__(self, dag_url: str, serv_url: str = "") -> None:
        self._dag = Caller(dag_url)
        self._serv = Caller(serv_url) if serv_url else None
        self.has_chart = False

    def videos(self) -> list[str]:
        """Open the page of queries; return its choices, `<address>-<number>`."""
        found = self._json(self._dag.get("/node/get_video_info"))
        choices = [
            f"{address}-{number}"
            for address, videos in found.items()
            for number, video in videos.items()
            if isinstance(video["type"], str)
        ]
        assert all(choice.count("-") == 1 for choice in choices), "they are split there"
        return choices

    def services(self) -> list[str]:
        """List the tasks, and where each can be had."""
        assert self._serv is not None
        names = self._json(self._serv.get("/get_service_list"))
        for name in names:
            for places in self._json(self._serv.get(f"/get_execute_url/{name}")).values():
                assert isinstance(places, dict)
        found: list[str] = names
        return found

    def submit(self, choice: str, pipeline: Sequence[str], delay: Any, accuracy: Any) -> str:
        """Press the button; return the id that is stored."""
        address, _, number = choice.partition("-")
        request = {
            "node_addr": address,
            "video_id": int(number),
            "pipeline": list(pipeline),
            "user_constraint": {"delay": delay, "accuracy": accuracy},
        }
        reply = self._json(self._dag.post("/query/submit_query", request))
        found: str = reply["query_id"]
        return found

    def constrain(self, query_id: str, delay: float, accuracy: float) -> None:
        """Press the button beside the results."""
        change = {
            "query_id": query_id, "user_constraint": {"delay": delay, "accuracy": accuracy},
        }  # fmt: skip
        self._json(self._dag.post("/user/submit_job_user_constraint", change))

    def show(self, query_id: str) -> Document | None:
        """Poll for results, as every 3 seconds; None for the note that there are none yet."""
        reply = self._dag.get(f"/query/get_agg_info/{query_id}")
        try:
            data = self._json(reply)
            frames = data["appended_result"]
        except (Broken, KeyError, TypeError):
            if self.has_chart:
                raise Broken(f"the chart is lost: {reply.status} {reply.body!r}") from None
            return None
        self.has_chart = True
        if not frames:
            raise Broken("the chart begins with nothing, and breaks at every update")
        for frame in frames:
            assert isinstance(frame["count_result"], dict)
            assert isinstance(frame["n_loop"], int)
        latest = data["latest_result"]
        for name, part in latest.get("plan", {}).items():
            assert isinstance(part, dict), f"plan.{name} is iterated"
        conf = latest["plan"]["video_conf"]
        if conf:
            assert isinstance(conf["fps"], (int, float))
            assert conf["encoder"] in ("H264", "JPEG", "x")
        for place in latest["plan"]["flow_mapping"].values():
            assert place["node_role"] in ("host", "edge", "cloud")
        assert isinstance(latest.get("runtime", {}), dict)
        if self._serv is not None:
            for node in self._json(self._serv.get("/get_cluster_info")).values():
                assert {"node_role", "n_cpu", "cpu_ratio"} <= node.keys()
        found: Document = data
        return found

    def show_nothing(self) -> int:
        """Poll with no query chosen; return the status."""
        return self._dag.get("/query/get_agg_info/").status

    def close(self) -> None:
        """Close the page."""
        self._dag.close()
        if self._serv is not None:
            self._serv.close()

    def _json(self, reply: Any) -> Any:
        try:
            return reply.json()
        except ValueError as err:
            raise Broken(f"no JSON: {reply.status} {reply.body!r}") from err
