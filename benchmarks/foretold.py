"""Whether the simulator foretells what a real system does under a plan that it has not seen.

    PYTHONPATH=.:tests/kit python benchmarks/foretold.py --clips CLIPS

The hosts and the camera of `promise.py`: an edge that has the camera, another edge and a cloud, in
network namespaces with a share of the CPU each. One query after the other runs under a plan that is
fixed, and `vdag record` writes down what is seen of it, on the cloud's host. From the traces of the
plans of `SEEN` come a knowledge base and a scenario. The plans of `UNSEEN` are simulated with these
and held against their own traces, which nothing was learned from.

What is compared is the 95th percentile of the delays of the frames of a second: the median of that
over the seconds of all runs, real and simulated. There are several runs of a plan, taken in turns.
The hosts have CPU quotas of periods of 50 ms. At 5 frames per second, all frames of a query would
fall into the same moment of a period, by when it has begun, and its delays with them; at the rates
of the edge's plans they fall into several.

Needs what `promise.py` needs, nsenter, and eight minutes. With `--traces` it foretells from the
traces of a run before, in seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from hosts_kit import Hosts, reason_to_skip
from msgspec.structs import replace
from promise import ACCURACY, DELAY_S, FPS, HEIGHT, TASKS, WIDTH, Course, scenes, write_clip
from system_kit import System

from vdag.control.profile import Profile
from vdag.control.simulation import simulate
from vdag.control.simulation.retracing import profile_of_trace, scenario_of_trace
from vdag.control.simulation.scenario import Scenario, VideoSpec
from vdag.control.simulation.traces import Trace, joined, read_trace

#: Name to resolution, frames per second, and the host of each task.
SEEN = {
    "360p, cloud": ("360p", 10, "cloud", "cloud"),
    "720p, cloud": ("720p", 4, "cloud", "cloud"),
    "360p, edge": ("360p", 6, "edge1", "edge1"),
    "540p, edge": ("540p", 3, "edge1", "edge1"),
}
UNSEEN = {
    "480p, cloud": ("480p", 8, "cloud", "cloud"),
    "480p, edge": ("480p", 4, "edge1", "edge1"),
    "480p, edge and cloud": ("480p", 6, "edge1", "cloud"),
}
#: Of each run: what is passed over while the first frames come, and what is recorded.
WARM_S, RECORD_S = 3, 15
#: Runs of each plan, and seeds of each simulation.
ROUNDS, SEEDS = 3, 15
GOAL = 0.15


class Confined(Hosts):
    """Hosts whose processes see the control groups that they are in.

    `ip netns exec` hides them: it mounts `/sys` anew.
    """

    @contextmanager
    def process(self, side: int, *command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        enter = ("nsenter", f"--net=/run/netns/{self._names[side]}")
        with subprocess.Popen([*enter, *command], text=True, **options) as process:
            try:
                yield process
            finally:
                process.kill()


def file_of(folder: Path, name: str, number: int) -> Path:
    """Return where the trace of a run is."""
    return folder / f"{name.replace(', ', '-').replace(' ', '-')}-{number}.json"


def record(system: System, hosts: Hosts, folder: Path, name: str, number: int) -> None:
    """Run a query under a plan, and write down what `vdag record` has seen of it."""
    resolution, fps, *places = (SEEN | UNSEEN)[name]
    where = system.place(**dict(zip(TASKS, places, strict=True)))
    plan = {
        "video_conf": {"resolution": resolution, "fps": fps, "encoder": "JPEG"},
        "flow_mapping": where,
    }
    wanted = {"delay": DELAY_S, "accuracy": ACCURACY}
    query = system.submit("edge1", 0, TASKS, user_constraint=wanted, policy="static", plan=plan)
    system.wait_results(query, WARM_S * max(int(fps), 1))
    out = file_of(folder, name, number)
    cloud = system.nodes["cloud"]
    command = (
        sys.executable, "-m", "vdag", "record", query, "--out", str(out), "--seconds",
        str(RECORD_S), "--cloud", f"http://{cloud.address}:5000",
        "--token-file", str(folder / "token"),
    )  # fmt: skip
    with hosts.process(cloud.side, *command, stderr=subprocess.PIPE) as process:
        _, error = process.communicate(timeout=RECORD_S + 60)
    if process.returncode:
        raise RuntimeError(f"vdag record: {error.strip()}")
    system.cloud.post("/query/stop", {"query_id": query})
    system.wait_state(query, "ended")


def seen_p95_s(traces: Sequence[Trace]) -> float:
    """Return the median over the seconds of traces of the 95th percentile in each."""
    found = []
    for trace in traces:
        seconds: defaultdict[int, list[float]] = defaultdict(list)
        for frame in trace.frames:
            seconds[int(frame.at_s)].append(frame.delay)
        whole = [sorted(seconds[second]) for second in sorted(seconds)[1:-1]]
        found += [each[max(math.ceil(0.95 * len(each)) - 1, 0)] for each in whole]
    return statistics.median(found)


def foretold_p95_s(base: Scenario, profile: Profile, plan: Mapping[str, Any], fps: float) -> float:
    """Return the same of a simulation under a plan."""
    (query,) = base.queries
    scene = replace(query.scene, phases=query.scene.phases[:1])
    video = VideoSpec(width=WIDTH, height=HEIGHT, fps=float(FPS))
    spec = replace(query, plan=plan, scene=scene, video=video)
    scenario = replace(base, queries=(spec,), duration_s=float(WARM_S + RECORD_S))
    data = profile.to_bytes()
    found = []
    for seed in range(SEEDS):
        outcome = simulate(scenario, "static", seed, profile=lambda: Profile.from_bytes(data))
        (result,) = outcome.queries
        windows = [each for each in result.windows if each.start_s >= WARM_S and each.results]
        found += [window.delay_p95 for window in windows]
    return statistics.median(found)


def with_all_tasks(base: Scenario) -> Scenario:
    """Return a scenario in which a node that was seen at one task may do the others it offers."""
    services: dict[str, Any] = {}
    for node in base.nodes:
        services.update(node.services)
    nodes = tuple(replace(node, services={**services, **node.services}) for node in base.nodes)
    return replace(base, nodes=nodes)


def main() -> int:
    """Record all plans, foretell the unseen ones, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=Path, help="folder of the clips")
    parser.add_argument("--out", type=Path, help="folder for the traces")
    parser.add_argument("--traces", type=Path, help="folder of traces, in place of recording")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs of each plan")
    asked = parser.parse_args()
    if asked.traces is not None:
        return report(asked.traces)
    reason = "--clips is missing" if asked.clips is None else reason_to_skip("nsenter")
    if reason:
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        record_all(asked.clips, Path(name), asked.rounds)
        if asked.out is not None:
            asked.out.mkdir(exist_ok=True)
            for path in Path(name).glob("*-*.json"):
                (asked.out / path.name).write_bytes(path.read_bytes())
        return report(Path(name))


def record_all(clips: Path, folder: Path, rounds: int) -> None:
    """Record each plan so often, in turns."""
    with closing(Confined(3)) as hosts:
        clip = folder / "camera.mp4"
        # Each query opens the video anew.
        write_clip(clip, scenes(clips), [1] * (WARM_S + RECORD_S + 60))
        course = Course("static", clip, folder, hosts)
        try:
            with course.system() as system:
                for number in range(rounds):
                    for each in SEEN | UNSEEN:
                        record(system, hosts, folder, each, number)
        finally:
            course.quota.close()


def traces_of(folder: Path, name: str) -> Iterator[Trace]:
    """Yield the traces of all runs of a plan."""
    for number in itertools.count():
        path = file_of(folder, name, number)
        if not path.exists():
            return
        yield read_trace(path)


def report(folder: Path) -> int:
    """Print how each plan was foretold; 0 if all the unseen ones were within the goal."""
    traces = {name: list(traces_of(folder, name)) for name in SEEN | UNSEEN}
    whole = joined([trace for name in SEEN for trace in traces[name]])
    profile, base = profile_of_trace(whole), with_all_tasks(scenario_of_trace(whole))
    print("| plan | measured p95, s | foretold, s | off by |\n| --- | --- | --- | --- |")
    worst = 0.0
    for name in [*SEEN, *UNSEEN]:
        first = traces[name][0].plans[0]
        plan = {"video_conf": first.video_conf, "flow_mapping": first.flow_mapping}
        seen_s = seen_p95_s(traces[name])
        told_s = foretold_p95_s(base, profile, plan, first.video_conf["fps"])
        off = told_s / seen_s - 1
        if name in UNSEEN:
            worst = max(worst, abs(off))
        print(
            f"| {name}{' (recorded)' * (name in SEEN)} | {seen_s:.3f} | {told_s:.3f} | {off:+.1%} |"
        )
    print(json.dumps({"worst": round(worst, 3), "goal": GOAL}))
    return int(worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())
