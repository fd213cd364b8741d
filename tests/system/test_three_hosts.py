"""A query whose tasks are done on three hosts finds what one process finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from system_kit import System

import vdag
from vdag.sources import SingleFrameGenerator
from vdag.tasks import base
from vdag.tasks.modules import load_module

CHAIN = ["levels", "spreads", "steps", "summary"]
FPS = 8
#: How far a codec may be off, in levels of 256, and for `low` and `high`, which are single pixels.
TOLERANCE = {"JPEG": (1.0, 30), "H264": (6.0, 40)}


@pytest.fixture(scope="module")
def clip(clips: Path) -> Path:
    return clips / "bikes.mp4"


@pytest.fixture
def nothing_is_left() -> None:
    """The nodes are everybody's; what must not be left is looked for by `system`."""


@pytest.fixture(scope="module")
def system(make_hosts, tasks, clip, tmp_path_factory) -> Iterator[System]:
    video = {"path": str(clip), "pace": "asap", "type": "streets"}
    with System(
        make_hosts(3),
        tmp_path_factory.mktemp("system"),
        modules=tasks,
        tasks={"cloud": CHAIN, "edge1": CHAIN, "edge2": CHAIN},
        videos={"edge1": {"0": video}, "edge2": {"0": video}},
    ) as system:
        yield system
        system.end_well()


@pytest.fixture(scope="module")
def expected(tasks, clip) -> dict[float, Any]:
    """What one process finds, by frame."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_registry", dict(base._registry))
        load_module(tasks)
        source = SingleFrameGenerator(clip, fps=FPS, resolution="native")
        with source, vdag.Pipeline(CHAIN, source) as results:
            documents = [result.to_dict() for result in results]
    return {each["frame_id"]: each["outputs"]["summary"] for each in documents}


def finish(system: System, encoder: str, **places: str) -> list[dict[str, Any]]:
    """Run a query to its end, and return its results."""
    plan = {
        "video_conf": {"resolution": "native", "fps": FPS, "encoder": encoder},
        "flow_mapping": system.place(**places),
    }
    query = system.submit("edge1", 0, CHAIN, policy="static", plan=plan)
    system.wait_state(query, "ended")
    found = list(system.results(query))
    assert system.drops(query) == {}
    assert [each["n_loop"] for each in found] == list(range(1, len(found) + 1))
    frame_ids = [each["frame_id"] for each in found]
    assert frame_ids == sorted(frame_ids)
    expect_routes(system, found, places)
    return found


def expect_routes(system: System, found: list[dict[str, Any]], places: dict[str, str]) -> None:
    """Each task was done by a worker of the node that the plan names."""
    workers = {name: node.workers() for name, node in system.nodes.items()}
    for each in found:
        infos = each["ext_runtime"]["proc_resource_info"]
        for task, name in places.items():
            assert infos[task]["pid"] in workers[name]
            placed = each["ext_plan"]["flow_mapping"][task]
            assert placed["node_addr"] == system.nodes[name].node_addr
            assert infos[task]["node_ip"] == system.nodes[name].address


SPREAD = {"levels": "edge1", "spreads": "edge1", "steps": "edge2", "summary": "cloud"}
AWAY = {"levels": "cloud", "spreads": "cloud", "steps": "edge2", "summary": "edge1"}


@pytest.mark.slow
@pytest.mark.parametrize("places", [SPREAD, AWAY], ids=["spread", "away"])
def test_raw_pixels_make_the_same_results_to_the_last_bit(system, expected, places):
    found = finish(system, "raw", **places)
    assert {each["frame_id"]: {"found": each["found"], "size": each["size"]} for each in found} == (
        expected
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["JPEG", "H264"])
def test_coded_pixels_make_results_within_what_the_codec_loses(system, expected, encoder):
    found = finish(system, encoder, **SPREAD)
    assert {each["frame_id"] for each in found} == expected.keys()
    mean, single = TOLERANCE[encoder]
    worst = dict.fromkeys(("levels", "spreads", "steps", "mean", "low", "high"), 0.0)
    for each in found:
        wanted = expected[each["frame_id"]]
        assert each["size"] == wanted["size"]
        # The first two tasks were done before the pixels were coded.
        assert each["found"]["levels"] == wanted["found"]["levels"]
        assert each["found"]["spreads"] == wanted["found"]["spreads"]
        for name in worst:
            off = np.abs(np.subtract(each["found"][name], wanted["found"][name])).max()
            worst[name] = max(worst[name], float(off))
    assert max(worst["steps"], worst["mean"]) <= mean, worst
    assert max(worst["low"], worst["high"]) <= single, worst
    assert worst["mean"] > 0  # it was coded
    print(f"\n{encoder}: {worst}")
