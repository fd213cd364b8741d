"""Services of handlers as they run: by threads, and in worker processes that know names alone."""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from vdag import open_source, tasks
from vdag.errors import ConfigError
from vdag.pipeline import Pipeline
from vdag.tasks.handlers import HandlerSpec, LinkSpec, graph_of, render
from vdag.tasks.modules import load_module
from vdag.tasks.naming import name_of

KIT = Path(__file__).parents[1] / "kit" / "handler_tasks.py"
WIDTH, HEIGHT = 264, 216


@pytest.fixture(scope="module", autouse=True)
def users_tasks():
    if "shade_box" not in tasks.names():
        load_module(KIT)


@pytest.fixture(autouse=True)
def runtime(monkeypatch):
    """A folder for sockets; no socket and no process may be left when the test is over."""
    folder = Path(tempfile.mkdtemp(prefix="vt-"))  # short: paths of sockets are
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield
    left = [
        process
        for process in psutil.Process().children(recursive=True)
        if "vdag.worker" in process.cmdline()
    ]
    assert left == []
    assert list(folder.iterdir()) == []
    folder.rmdir()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(render.FOLDER, str(tmp_path))
    return tmp_path


def shades(count):
    """Pictures whose every sample is ten times their number: JPEG keeps them apart."""
    return [np.full((48, 64, 3), 10 * n, np.uint8) for n in range(count)]


def service(*kinds, links=None):
    """Handlers from 0 on, each a number of a type, with parameters or a task of one's own."""
    handlers = [
        HandlerSpec(number, *(each if isinstance(each, tuple) else (each,)))
        for number, each in enumerate(kinds)
    ]
    pairs = links or [(number, number + 1, 0) for number in range(len(kinds) - 1)]
    return graph_of(handlers, [LinkSpec(source, 0, target, port) for source, target, port in pairs])


def chain(to):
    """The documents' chain, within one node: capture to render, with a detour over a JPEG."""
    return service(
        (2, {"fps": 30}),
        (5, {"quality": 90}),
        6,
        (4, {"width": WIDTH, "height": HEIGHT}),
        (8, {"min_size": 30}),
        16,
        (3, {"to": to}),
        links=[(0, 1, 0), (1, 2, 0), (2, 3, 0), (3, 4, 0), (3, 5, 0), (4, 5, 1), (5, 6, 0)],
    )


def drawn(pixels, box):
    """How much of a box's outline is yellow, as far as a video keeps colours."""
    inside = np.zeros(pixels.shape[:2], bool)
    left, top = box["x"], box["y"]
    right, bottom = left + box["w"] - 1, top + box["h"] - 1
    inside[top : bottom + 1, [left, right]] = True
    inside[[top, bottom], left : right + 1] = True
    blue, green, red = (pixels[..., n].astype(int) for n in range(3))
    yellow = (green - blue > 60) & (red - blue > 60)
    return float(yellow[inside].mean())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 1])
def test_a_clip_goes_through_the_whole_service_into_a_video(folder, carphone, workers):
    wiring = chain("faces.mp4")
    detect = wiring.tasks[4]
    with Pipeline(wiring.graph, carphone, workers=workers, models={detect: 2}) as run:
        results = list(run)
    assert [result.seq for result in results] == list(range(120))
    assert all(result[wiring.tasks[6]] == {"shown": True} for result in results)
    with open_source(folder / "faces.mp4") as source:
        assert (source.width, source.height) == (WIDTH, HEIGHT)
        frames = [np.array(frame.pixels) for frame in source]
    assert len(frames) == 120
    found = [result[detect]["boxes"] for result in results]
    assert sum(map(bool, found)) > 100
    for pixels, boxes in zip(frames, found, strict=True):
        for box in boxes:
            assert drawn(pixels, box) > 0.8
        if boxes:  # and nowhere else: the same box elsewhere is none
            box = dict(boxes[0], x=2, y=2, w=20, h=20)
            assert drawn(pixels, box) < 0.5


@pytest.mark.slow
def test_pictures_stay_where_they_are_wanted_and_do_not_come_home(carphone):
    wiring = service(
        2, (4, {"width": WIDTH, "height": HEIGHT}), 8, 11, (13, {"task": "who"}),
        links=[(0, 1, 0), (1, 2, 0), (2, 3, 0), (3, 4, 0)],
    )  # fmt: skip
    resize, detect, align, recognise = wiring.tasks.values()
    by_threads, by_workers = (
        results_of(wiring.graph, read(carphone, 8), workers=workers) for workers in (None, 1)
    )
    for one, other in zip(by_threads, by_workers, strict=True):
        assert [box["label"] for box in other[recognise]["boxes"]] == ["carl"]
        assert {**other[recognise]["boxes"][0], "prob": 0, "label": 0} == {
            **one[recognise]["boxes"][0], "prob": 0, "label": 0,
        }  # fmt: skip
        assert one[align]["crops"][0].shape == (96, 96, 3)
        assert "image" not in other[resize]
        assert all("crops" not in other[task] for task in (detect, align, recognise))


def read(path, count):
    with open_source(path) as source:
        return [np.array(frame.pixels) for frame in itertools.islice(source, count)]


def results_of(graph, source, **options):
    with Pipeline(graph, source, **options) as run:
        return list(run)


@pytest.mark.parametrize("workers", [None, 2])
def test_two_inputs_are_of_one_frame(workers):
    """The picture is the capture's, the boxes are of what became of it on another way."""
    joined = name_of("joined", {"factor": 2})
    wiring = service(
        2, 5, 6, (40, {}, "shade_box"), 16, (41, {}, joined),
        links=[(0, 1, 0), (1, 2, 0), (2, 3, 0), (0, 4, 0), (3, 4, 1), (4, 5, 0)],
    )  # fmt: skip
    counts = None if workers is None else {"decode": workers, "shade_box": workers}
    with Pipeline(wiring.graph, shades(25), workers=counts, max_in_flight=12) as run:
        found = [result[joined]["joined"] for result in run]
    assert found == [[2 * number, 2 * number] for number in range(25)]


@pytest.mark.parametrize("workers", [None, 1])
def test_a_lost_packet_stalls_nothing(workers):
    """With one frame in flight, no later one can help a frame along: each comes by itself."""
    wiring = service(2, 5, (40, {}, "spoil"), 6, (41, {}, "shade_of"))
    dag = wiring.graph.to_dag()
    dag["input"]["spoil"] = {"jpeg": "encode.jpeg", "seq": "SingleFrameGenerator.seq"}
    dag["input"]["decode"] = {"jpeg": "spoil.jpeg"}
    options = {"workers": workers} if workers else {"threads": 1}
    with Pipeline(dag, shades(12), max_in_flight=1, on_error="drop", **options) as run:
        numbers = [(result.seq, round(result["shade_of"]["seen"][0] / 10)) for result in run]
        stats = run.stats()
    assert numbers == [(n, n) for n in range(12) if n not in {3, 4, 9}]
    assert dict(stats.dropped) == {"error": 3}
    assert stats.tasks["shade_of"].frames == 9


@pytest.mark.slow
def test_a_lost_packet_stalls_no_join_and_no_video(folder):
    wiring = service(
        2, 5, (40, {}, "spoil"), 6, (4, {"width": 64, "height": 48}), (41, {}, "shade_box"), 17,
        (3, {"to": "gaps.mkv", "fps": 10}),
        links=[(0, 1, 0), (1, 2, 0), (2, 3, 0), (3, 4, 0), (4, 5, 0), (0, 6, 0), (5, 6, 1),
               (6, 7, 0)],
    )  # fmt: skip
    dag = wiring.graph.to_dag()
    dag["input"]["spoil"] = {"jpeg": "encode.jpeg", "seq": "SingleFrameGenerator.seq"}
    dag["input"]["decode"] = {"jpeg": "spoil.jpeg"}
    with Pipeline(dag, shades(12), workers=1, max_in_flight=1, on_error="drop") as run:
        assert [result.seq for result in run] == [n for n in range(12) if n not in {3, 4, 9}]
    with open_source(folder / "gaps.mkv") as source:
        times = [round(frame.pts_s, 1) for frame in source]
    assert times == [0.0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 1.0, 1.1]


def test_a_wrong_parameter_is_told_before_anything_starts():
    name = name_of("resize", {"width": 0})
    for workers in (None, 1):
        with pytest.raises(
            ConfigError,
            match=r"^resize: parameter width is 0, expected a whole number of 1 to 16384$",
        ):
            Pipeline([name], shades(1), workers=workers)


def test_what_a_worker_cannot_load_is_its_own_error(monkeypatch):
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=r"^render: a window needs a display, "):
        Pipeline(service(2, 3).graph, shades(1), workers=1)


def test_a_recogniser_that_workers_cannot_get_at_is_told():
    assert sys.modules[tasks.find("who").function.__module__].__file__ == str(KIT)
    graph = [name_of("recognise", {"task": "who"})]
    with Pipeline(graph, shades(3), workers=1) as run:
        found = [result[graph[0]]["boxes"][0] for result in run]
    assert [box["label"] for box in found] == ["carl"] * 3
    assert all(math.isclose(box["prob"], 10 * n / 255, abs_tol=1e-6) for n, box in enumerate(found))


def test_full_hd_pictures_travel_one_after_the_other():
    """Pictures of 6 MB each pass one worker after another, though a context holds 16 MB in all."""
    one, other = ({"width": width, "height": 1080} for width in (1920, 1918))
    wiring = service(2, 5, 6, (4, one), (4, other), (40, {}, "shade_of"))
    source = [np.full((540, 960, 3), value, np.uint8) for value in (50, 100)]
    with Pipeline(wiring.graph, source, workers=1) as run:
        found = [result["shade_of"] for result in run]
    assert [each["shape"] for each in found] == [[1080, 1918, 3]] * 2
    assert [abs(each["seen"][0] - value) <= 2 for each, value in zip(found, (50, 100), strict=True)]


def test_a_picture_that_is_too_large_to_travel_fails_by_itself():
    wiring = service(2, (4, {"width": 4096, "height": 4096}), (40, {}, "shade_of"))
    with Pipeline(wiring.graph, shades(2), workers=1, on_error="drop") as run:
        assert list(run) == []
        assert dict(run.stats().dropped) == {"error": 2}
