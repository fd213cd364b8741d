"""Whether the promise is kept: three hosts in network namespaces, a constraint, and disturbances.

    PYTHONPATH=.:tests/kit python benchmarks/promise.py --clips CLIPS --policy predictive

One query, face_detection and face_alignment, on a looking camera of 1280x720 at 25 frames per
second; every result within 0.3 s, accuracy at least 0.9. The edge that has the camera gets half a
core, a second edge has none of the video, the cloud has a core. Then, one after the other and each
taken back: the edge's CPU is halved; its link goes from 100 to 10 Mbit/s; there are three times the
faces; a second query comes to the same nodes.

A window is one second of the camera. It is in if the 95th percentile of the delays of its frames is
within the constraint; a window without a result is out, unless the plan takes fewer than one frame
per second. Accuracy is measured, not foretold: each frame of the camera is held against what the
golden configuration finds in it (1280x720, the largest model), with the latest result that there is
of the camera at that moment. Frames between two results are seen late, and count so.

Needs root for namespaces and control groups (version 1 or 2), and about five minutes per policy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from hosts_kit import Hosts, reason_to_skip
from system_kit import System

from vdag.control.profile.matching import Findings, findings_of, match
from vdag.engines import zoo
from vdag.tasks import TaskOptions, load

TASKS = ("face_detection", "face_alignment")
DELAY_S, ACCURACY = 0.3, 0.9
WIDTH, HEIGHT, FPS = 1280, 720, 25
#: Cores of each host: of the slow edge, and of it while its CPU is halved.
CORES = {"edge1": 0.5, "edge2": 1.0, "cloud": 1.0}
#: Seconds that a query may take to find its way after a step, and that are looked at afterwards.
SETTLE_S, STEADY_S = 10, 15
START_S = 30
STEPS = (
    "start", "cpu halved", "cpu back", "10 Mbit/s", "100 Mbit/s", "3x faces", "1x faces",
    "second query", "second query over",
)  # fmt: skip
PHASE_S = SETTLE_S + STEADY_S
#: Boxes that overlap by this much are of one face.
MIN_IOU = 0.5


@dataclass
class Phase:
    """What became of one step.

    Attributes:
        name: of the step.
        settled_s: from the step to the first of the windows that are all in, None for never.
        plans: changes of the plan in it.
        windows: that were looked at when it should have settled.
        inside: of them, those that were in.
        accuracy: measured, mean over the camera's frames of these windows.
        fps: results per second of these windows.
        p95_s: of the delays in these windows.
    """

    name: str
    settled_s: float | None
    plans: int
    windows: int
    inside: int
    accuracy: float
    fps: float
    p95_s: float


@dataclass
class Outcome:
    """What became of one policy.

    Attributes:
        policy: its name.
        phases: what became of each step.
        results: that came home.
        gaps: results that are missing.
        lost: frames by reason.
        misses: every window that was out: its second of the camera, and the 95th percentile in it,
            seconds; None for a window without a result.
        plans: every plan: when it took effect, second of the camera, why, and what it says.
    """

    policy: str
    phases: list[Phase] = field(default_factory=list)
    results: int = 0
    gaps: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    misses: list[tuple[int, float | None]] = field(default_factory=list)
    plans: list[dict[str, Any]] = field(default_factory=list)


def scenes(clips: Path) -> dict[int, list[np.ndarray]]:
    """Return the camera's pictures, by how many faces are in them: one man, once or three times."""
    with av.open(str(clips / "carphone_pristine.mp4")) as container:
        small = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    found: dict[int, list[np.ndarray]] = {1: [], 3: []}
    for picture in small:
        large = cv2.resize(picture, (420, 344), interpolation=cv2.INTER_CUBIC)
        for count, pictures in found.items():
            canvas = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            for place in range(count):
                canvas[180:524, 5 + 425 * place : 425 + 425 * place] = large
            pictures.append(canvas)
    return found


def write_clip(
    path: Path, pictures: Mapping[int, Sequence[np.ndarray]], kinds: Sequence[int]
) -> None:
    """Write the camera's video: for each of its seconds, how many faces there are."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "18", "g": "50"}
        for number in range(len(kinds) * FPS):
            scene = pictures[kinds[number // FPS]]
            frame = av.VideoFrame.from_ndarray(scene[number % len(scene)], format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def golden(pictures: Mapping[int, Sequence[np.ndarray]]) -> dict[int, list[Findings]]:
    """Return what the golden configuration finds in each of the camera's pictures."""
    task = load("face_detection", TaskOptions(model_id=min(zoo.models_for("face_detection"))))
    found = {}
    for kind, scene in pictures.items():
        outputs = [task.process([{"image": picture}])[0] for picture in scene]
        found[kind] = [_findings(each, WIDTH, HEIGHT) for each in outputs]
    return found


def _findings(outputs: Mapping[str, Any], width: int, height: int) -> Findings:
    boxes = {"bbox": np.asarray(outputs["bbox"], np.float32).reshape(-1, 4)}
    found = findings_of({**boxes, "prob": outputs.get("prob", ())}, width, height)
    assert found is not None, "faces have boxes"
    return found


class Quota:
    """Control groups with a share of the CPU, for the processes of a host and their children."""

    def __init__(self) -> None:
        v1 = Path("/sys/fs/cgroup/cpu")
        self._is_v1 = v1.is_dir()
        self._root = v1 if self._is_v1 else Path("/sys/fs/cgroup")
        self._groups: dict[str, Path] = {}

    def put(self, name: str, pids: Sequence[int], cores: float) -> None:
        """Put processes into a group of so many cores."""
        group = self._groups[name] = self._root / f"vdag-promise-{os.getpid()}-{name}"
        group.mkdir()
        self.set(name, cores)
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))

    def set(self, name: str, cores: float) -> None:
        """Give a group so many cores."""
        group, quota = self._groups[name], round(cores * 50_000)
        if self._is_v1:
            (group / "cpu.cfs_period_us").write_text("50000")
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} 50000")

    def close(self) -> None:
        """Remove the groups; their processes have ended."""
        for group in self._groups.values():
            deadline_s = time.monotonic() + 10
            while group.exists() and time.monotonic() < deadline_s:
                try:
                    group.rmdir()
                except OSError:
                    time.sleep(0.1)


class Course:
    """One run of one policy."""

    def __init__(self, policy: str, clip: Path, folder: Path, hosts: Hosts) -> None:
        self.policy, self._clip, self._folder, self._hosts = policy, clip, folder, hosts
        self.quota = Quota()

    @contextmanager
    def system(self) -> Iterator[System]:
        """Start the nodes, on hosts of their shares of the machine."""
        modules = self._folder / "none.py"
        modules.write_text("")
        video = {"path": str(self._clip), "pace": "realtime"}
        offers = {name: TASKS for name in ("cloud", "edge1", "edge2")}
        with System(
            self._hosts, self._folder, modules=modules, tasks=offers,
            videos={"edge1": {"0": video, "1": video}},
            slots="[[1280, 720, 48]]",
            cloud={"results_kept": 100_000},
        ) as system:  # fmt: skip
            for name, node in system.nodes.items():
                self.quota.put(name, [node.process.pid, *node.workers()], CORES[name])
            for side in range(len(system.nodes)):
                self._hosts.thin(side, "100mbit")
            try:
                yield system
            finally:
                for node in system.nodes.values():
                    node.stop()

    def run(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, int], float]:
        """Return the results, the plans, the frames lost, and when the video began."""
        with self.system() as system:
            query = self._submit(system, 0)
            first = system.wait_results(query, 1)
            # Moments of the camera are moments of the wall from here on.
            began_s = time.time() - first["delay"] - first["frame_id"] / FPS
            self._disturb(system, began_s)
            self._stop(system, query)
            system.wait_state(query, "ended")
            results = list(system.results(query))
            return results, system.history(query), system.drops(query), began_s

    def _submit(self, system: System, video: int) -> str:
        more: dict[str, Any] = {"policy": self.policy}
        if self.policy == "static":
            conf = {"resolution": "480p", "fps": 10, "encoder": "JPEG"}
            where = system.place(face_detection="edge1", face_alignment="edge1")
            more["plan"] = {"video_conf": conf, "flow_mapping": where}
        wanted = {"delay": DELAY_S, "accuracy": ACCURACY}
        return system.submit("edge1", video, TASKS, user_constraint=wanted, **more)

    def _stop(self, system: System, query: str) -> None:
        system.cloud.post("/query/stop", {"query_id": query})

    def _disturb(self, system: System, began_s: float) -> None:
        """Do each step at its moment of the camera; the faces are in the video."""
        pause, second, side = threading.Event(), "", list(system.nodes).index("edge1")
        for number, step in enumerate(STEPS):
            at_s = began_s + (0 if number == 0 else START_S + (number - 1) * PHASE_S)
            pause.wait(max(at_s - time.time(), 0))
            if step == "cpu halved":
                self.quota.set("edge1", CORES["edge1"] / 2)
            elif step == "cpu back":
                self.quota.set("edge1", CORES["edge1"])
            elif step in ("10 Mbit/s", "100 Mbit/s"):
                self._hosts.thin(side, step.replace(" Mbit/s", "mbit"))
            elif step == "second query":
                second = self._submit(system, 1)
            elif step == "second query over":
                self._stop(system, second)
            print(f"  {self.policy}: {step} at {at_s - began_s:.0f} s", flush=True)
        pause.wait(max(began_s + length_s() - time.time(), 0))


def length_s() -> int:
    """Return how long a course takes, in seconds of the camera."""
    return START_S + (len(STEPS) - 1) * PHASE_S


def faces() -> list[int]:
    """Return how many faces there are, second by second; the second before the end goes on."""
    found = []
    for number, step in enumerate(STEPS):
        seconds = START_S if number == 0 else PHASE_S
        found += [3 if step == "3x faces" else 1] * seconds
    return [*found, *[1] * 30]


def judge(
    policy: str,
    results: Sequence[Mapping[str, Any]],
    plans: Sequence[Mapping[str, Any]],
    drops: Mapping[str, int],
    began_s: float,
    truth: Mapping[int, Sequence[Findings]],
) -> Outcome:
    """Return what became of a policy."""
    outcome = Outcome(policy, results=len(results), lost=dict(drops))
    outcome.gaps = len(results) and results[-1]["n_loop"] - len(results)
    delays = _delays(results)
    agreed = _accuracies(results, truth)
    outcome.misses = [
        (second, float(np.quantile(delays[second], 0.95)) if delays.get(second) else None)
        for second in range(length_s())
        if not _is_in(delays, second)
    ]
    outcome.plans = [{**each, "at": round(each["at"] - began_s, 2)} for each in plans]
    for number, step in enumerate(STEPS):
        start = 0 if number == 0 else START_S + (number - 1) * PHASE_S
        end = START_S + number * PHASE_S
        is_in = [_is_in(delays, second) for second in range(start, end)]
        steady = range(end - STEADY_S, end)
        kept = [delay for second in steady for delay in delays.get(second, ())]
        changed = [each for each in plans if start <= each["at"] - began_s < end]
        outcome.phases.append(
            Phase(
                step, _settled(is_in), max(len(changed) - (number == 0), 0), len(steady),
                sum(_is_in(delays, second) for second in steady),
                statistics.fmean(agreed[s] for s in steady if s in agreed) if agreed else 0.0,
                len(kept) / len(steady), float(np.quantile(kept, 0.95)) if kept else 0.0,
            )
        )  # fmt: skip
    return outcome


def _delays(results: Sequence[Mapping[str, Any]]) -> dict[int, list[float]]:
    """Return the delays of the frames of each second of the camera."""
    found: dict[int, list[float]] = {}
    for frame in results:
        found.setdefault(int(frame["frame_id"] // FPS), []).append(frame["delay"])
    return found


def _is_in(delays: Mapping[int, Sequence[float]], second: int) -> bool:
    return bool(delays.get(second)) and float(np.quantile(delays[second], 0.95)) <= DELAY_S


def _settled(is_in: Sequence[bool]) -> float | None:
    """Return after how many seconds at least five windows in a row were in."""
    for second in range(len(is_in) - 4):
        if all(is_in[second : second + 5]):
            return float(second)
    return None


def _accuracies(
    results: Sequence[Mapping[str, Any]], truth: Mapping[int, Sequence[Findings]]
) -> dict[int, float]:
    """Return the measured accuracy of each second of the camera."""
    kinds, found, scores = faces(), iter(results), {}
    frame, coming = None, next(found, None)
    for number in range(length_s() * FPS):
        while coming is not None and coming["frame_id"] <= number:
            frame, coming = coming, next(found, None)
        if frame is None:
            continue
        size = frame["task_conf"]["resolution"]
        seen = _findings(frame, size["w"], size["h"])
        scene = truth[kinds[number // FPS]]
        there = scene[number % len(scene)]
        total = len(there) + len(seen)
        score = 2 * len(match(there, seen, least=MIN_IOU)) / total if total else 1.0
        scores.setdefault(number // FPS, []).append(score)
    return {second: statistics.fmean(values) for second, values in scores.items()}


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a table in Markdown."""
    lines = ["| policy | windows in | accuracy | fps | plans | settled after each step, s |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for each in outcomes:
        windows = sum(phase.windows for phase in each.phases)
        inside = sum(phase.inside for phase in each.phases)
        settled = ", ".join(
            f"{phase.name} {'never' if phase.settled_s is None else f'{phase.settled_s:.0f}'}"
            for phase in each.phases
        )
        lines.append(
            f"| {each.policy} | {inside / windows:.1%} "
            f"| {statistics.fmean(phase.accuracy for phase in each.phases):.3f} "
            f"| {statistics.fmean(phase.fps for phase in each.phases):.1f} "
            f"| {sum(phase.plans for phase in each.phases)} | {settled} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the policies, print the table, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--policy", action="append", required=True)
    parser.add_argument("--clips", type=Path, required=True, help="folder of the clips")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if reason := reason_to_skip():
        print(reason, file=sys.stderr)
        return 1
    pictures = scenes(options.clips)
    truth, outcomes = golden(pictures), []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        clip = Path(name) / "camera.mp4"
        write_clip(clip, pictures, faces())
        for policy in options.policy:
            hosts = stack.enter_context(_closing(Hosts(3)))
            folder = Path(name) / policy.replace("/", "-")
            folder.mkdir()
            course = Course(policy, clip, folder, hosts)
            try:
                found = course.run()
            finally:
                course.quota.close()
            outcomes.append(judge(policy, *found, truth))
            for phase in outcomes[-1].phases:
                print(f"  {phase}")
            print(f"  {outcomes[-1].results} results, lost {outcomes[-1].lost}", flush=True)
            hosts.close()
    print(table(outcomes))
    if options.out:
        options.out.write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
    return 0


@contextmanager
def _closing(hosts: Hosts) -> Iterator[Hosts]:
    try:
        yield hosts
    finally:
        hosts.close()


if __name__ == "__main__":
    sys.exit(main())
