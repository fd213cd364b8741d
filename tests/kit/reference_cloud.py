"""A query manager of the first system, as far as it talks: as strict as `reference_clients`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from node_kit import Caller
from reference_server import WAIT_S, Broken, Document, Server


class OldCloud:
    """A query manager of the first system; it does what its scheduler does when it is told to."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.videos: dict[str, dict[int, str]] = {}
        self.results: dict[str, list[Document]] = {}
        self.runtimes: dict[str, list[Document]] = {}
        self._new: dict[str, list[Document]] = {}
        self._plans: dict[str, Document] = {}
        self._count = 0
        self._server = Server(self._handle)
        self.url = f"http://127.0.0.1:{self._server.port}"

    def wait_joined(self, videos: Sequence[int]) -> str:
        """Wait until a node has registered these; return its address."""
        wanted = set(videos)

        def found() -> list[str]:
            return [name for name, known in self.videos.items() if wanted <= known.keys()]

        with self._changed:
            if not self._changed.wait_for(found, WAIT_S):
                raise Broken(f"videos {wanted} have not joined: {self.videos}")
            return found()[0]

    def restart(self) -> None:
        """Forget everything, as when it is started anew: it keeps nothing."""
        with self._changed:
            for known in (self.videos, self.results, self.runtimes, self._new, self._plans):
                known.clear()
            self._count = 0

    def submit(
        self, node_addr: str, video_id: int, pipeline: Sequence[str], constraint: Document,
        *, pull: bool = False,
    ) -> str:  # fmt: skip
        """Post a job to a node, or keep it until the node asks."""
        self._count += 1
        job_uid = f"GLOBAL_ID_{self._count}"
        job = {
            "job_uid": job_uid, "node_addr": node_addr, "video_id": video_id,
            "pipeline": list(pipeline), "user_constraint": constraint,
        }  # fmt: skip
        self.results[job_uid], self.runtimes[job_uid] = [], []
        if pull:
            with self._changed:
                self._new.setdefault(node_addr, []).append(job)
        else:
            assert self._post(node_addr, "/job/submit_job", job)["status"] == 0
        return job_uid

    def plan(
        self, node_addr: str, job_uid: str, conf: Document, mapping: Document,
        *, pull: bool = False,
    ) -> None:  # fmt: skip
        """Post a plan to a node, as every 3 seconds, or keep it until the node asks."""
        plan = {"job_uid": job_uid, "video_conf": conf, "flow_mapping": mapping}
        if pull:
            limits = {task: {"cpu_util_limit": 1.0, "mem_util_limit": 1.0} for task in mapping}
            self._plans[job_uid] = {**plan, "resource_limit": limits, "node_addr": node_addr}
        else:
            assert self._post(node_addr, "/job/update_plan", plan)["status"] == 0

    def get_runtime(self, node_addr: str, job_uid: str) -> Document:
        """Ask a node for a job's runtime, as an earlier version does in every round."""
        caller = Caller(f"http://{node_addr}")
        try:
            reply = caller.get(f"/job/get_runtime/{job_uid}")
        finally:
            caller.close()
        if reply.status != 200:
            raise Broken(f"get_runtime: {reply.status} {reply.body!r}")
        found: Document = reply.json()
        return found

    def wait_results(self, job_uid: str, count: int) -> list[Document]:
        """Wait until a job has so many results; return them."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.results[job_uid]) >= count, WAIT_S):
                raise Broken(f"{len(self.results[job_uid])} results, expected {count}")
            return list(self.results[job_uid])

    def close(self) -> None:
        """End it."""
        self._server.close()

    def _post(self, node_addr: str, path: str, body: Document) -> Document:
        caller = Caller(f"http://{node_addr}")
        try:
            reply = caller.post(path, body)
        finally:
            caller.close()
        if reply.status != 200:
            raise Broken(f"{path}: {reply.status} {reply.body!r}")
        found: Document = reply.json()
        return found

    def _handle(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        with self._changed:
            self._changed.notify_all()
            if path == "/node/join":
                ip = body.get("node_ip", "127.0.0.1")
                node_addr = f"{ip}:{body['node_port']}"
                self.videos.setdefault(node_addr, {})[body["video_id"]] = body["video_type"]
                text = "joined one video to query_manager"
                return 200, {"msg": text, "node_addr": node_addr, "status": 0}
            if path == "/node/get_video_info":
                return 200, {
                    node_addr: {str(number): {"type": words} for number, words in videos.items()}
                    for node_addr, videos in self.videos.items()
                }
            if path == "/query/sync_result":
                result = body["job_result"]
                assert result.keys() <= {"appended_result", "latest_result"}
                if "appended_result" in result:
                    frame = result["appended_result"]
                    assert {"video_conf", "flow_mapping"} <= frame["ext_plan"].keys()
                    assert isinstance(frame["ext_runtime"], dict)
                    self.results[body["job_uid"]].append(frame)
                return 200, {"status": 500}
            if path == "/query/sync_runtime":
                self.runtimes[body["job_uid"]].append(body["job_runtime"])
                return 200, {"status": 500}
            if path == "/query/get_jobs_info_and_jobs_plan":
                node_addr = body["node_addr"]
                new = self._new.pop(node_addr, [])
                plans = {
                    job_uid: plan
                    for job_uid, plan in self._plans.items()
                    if plan["node_addr"] == node_addr
                }
                return 200, {"jobs_info": {job["job_uid"]: job for job in new}, "jobs_plan": plans}
        return 404, {}
