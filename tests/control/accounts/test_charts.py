"""The charts and tables of a session's page: they show what is recorded."""

from __future__ import annotations

import re

import pytest
from packet_kit import EDGE, EPOCH_S, Truth, keep, open_session, own_frames, rows_of
from page_kit import CHANGES_S, TRUTHS, account_of

from vdag.control.accounts import Account
from vdag.control.records import NodeSample, Store

STRETCHES = 120
WHOLE = [truth for truth in TRUTHS if truth.lost_at is None]


def bars(path: str, count: int) -> dict[int, tuple[float, float]]:
    """Foot and height of the bars of a path by number, of so many, in units of the plot."""
    tops: dict[int, float] = {}
    feet: dict[int, float] = {}
    x = y = 0.0
    width = 1000 / count
    for name, number, second in re.findall(r"([MVhz])(-?[\d.]+)?(?: (-?[\d.]+))?", path):
        if name == "M":
            x, y = float(number), float(second)
        elif name == "V":
            y = float(number)
        elif name == "h":
            assert abs(float(number)) == pytest.approx(width, abs=0.001)
            x += float(number)
            if float(number) > 0:
                tops[round(x / width) - 1] = y
            else:
                feet[round(x / width)] = y
    assert tops.keys() == feet.keys()
    return {index: (100 - feet[index], feet[index] - tops[index]) for index in tops}


def stretch(truth: Truth, account: Account) -> int:
    share = (truth.born_s - account.begin_s) / (account.end_s - account.begin_s)
    return min(int(share * STRETCHES), STRETCHES - 1)


def test_stacks_are_the_means_of_the_parts_of_each_stretch_to_scale(page, account):
    for handler, parts in ((1, ("transfer", "queue", "compute")), (2, ("queue", "compute"))):
        plot = page.root.one("svg", **{"data-key": f"stack-{handler}"})
        top_ms = float(plot.attributes["data-top"])
        bases: dict[int, float] = {}
        for part in parts:
            expected: dict[int, list[float]] = {}
            for truth in WHOLE:
                length_ms = truth.parts[handler, part] * 1e3
                expected.setdefault(stretch(truth, account), []).append(length_ms)
            found = bars(plot.one("path", class_=part).attributes["d"], STRETCHES)
            assert found.keys() == expected.keys()
            for index, (foot, height) in found.items():
                mean_ms = sum(expected[index]) / len(expected[index])
                assert height * top_ms / 100 == pytest.approx(mean_ms, abs=top_ms / 1e4)
                assert foot == pytest.approx(bases.get(index, 0.0), abs=0.01)
                bases[index] = foot + height
        assert max(bases.values()) <= 100.01


def test_all_handlers_together_add_up_to_the_mean_delay(page, account):
    delays: dict[int, list[float]] = {}
    for truth in WHOLE:
        delays.setdefault(stretch(truth, account), []).append(truth.delay_s * 1e3)
    chart = page.data["charts"]["stack-all"]
    assert chart["names"][-1] == "frames"
    for index, found in delays.items():
        total = sum(line[index] for line in chart["values"][:-1])
        assert total == pytest.approx(sum(found) / len(found), abs=0.01)
        assert chart["values"][-1][index] == len(found)


def test_the_histogram_has_every_whole_frame_in_its_bin(page, account):
    plot = page.root.one("svg", **{"data-key": "histogram"})
    assert account.histogram is not None
    top_s, top = account.histogram.top_s, float(plot.attributes["data-top"])
    expected = [0] * 50
    for truth in WHOLE:
        expected[min(int(truth.delay_s / top_s * 50 + 1e-9), 49)] += 1
    shape = bars(plot.one("path", class_="bin").attributes["d"], 50)
    found = {index: height * top / 100 for index, (_, height) in shape.items()}
    assert sum(found.values()) + account.histogram.above == pytest.approx(len(WHOLE), abs=0.01)
    close = sum(abs(found.get(n, 0.0) - count) for n, count in enumerate(expected))
    assert close <= 4.01  # a delay at an edge may fall to either side


def test_percentiles_lost_frames_and_drops_are_in_tables(page):
    rows = {(row[0], row[1]): row[2:] for row in page.table("Percentiles")}
    delays_ms = sorted(truth.delay_s * 1e3 for truth in WHOLE)
    found = rows["all", "delay"]
    assert found[0] == str(len(WHOLE))
    assert float(found[3]) == pytest.approx(delays_ms[-(-95 * len(WHOLE) // 100) - 1], abs=0.06)
    assert float(found[5]) == pytest.approx(delays_ms[-1], abs=0.06)
    compute_ms = [truth.parts[2, "compute"] * 1e3 for truth in WHOLE]
    mean_ms = sum(compute_ms) / len(compute_ms)
    assert float(rows["2 face_alignment", "compute"][1]) == pytest.approx(mean_ms, abs=0.06)
    lost = {(row[0].partition(" ")[0], row[1]): row[2] for row in page.table("Seen last")}
    assert lost == {(str(t.lost_at[0]), t.lost_at[1]): "1" for t in TRUTHS if t.lost_at}
    assert page.table("Dropped") == [["late", "6"], ["queue full", "2"]]


def test_plans_have_their_causes_and_stand_on_the_time_line(page, account):
    rows = page.table("Plans")
    assert [(row[0], row[2], row[3], row[4]) for row in rows] == [
        ("1", "cause 1", "reason 1", "720p, 10 fps, JPEG"),
        ("2", "cause 2", "reason 2", "720p, 20 fps, JPEG"),
    ]
    assert rows[0][5] == "face_detection on 192.0.2.2, model 0"
    length_s = account.end_s - account.begin_s
    for key in ("delays", "stack-1", "load-1"):
        marks = page.root.one("svg", **{"data-key": key}).all("path", class_="mark")
        places = [float(mark.attributes["d"].split()[0][1:]) for mark in marks]
        expected = [(at_s - account.begin_s) / length_s * 1000 for at_s in CHANGES_S]
        assert places == pytest.approx(expected, abs=0.06)


def test_loads_are_of_the_nodes_of_the_session_and_placements_are_bars(page):
    keys = {plot.attributes.get("data-key", "") for plot in page.root.all("svg")}
    assert {key for key in keys if key.startswith("load-")} == {"load-1", "load-2"}
    cloud = page.root.one("svg", **{"data-key": "load-2"})
    heights = set(re.findall(r"[ V](\d+\.\d+)h", cloud.one("path", class_="cpu").attributes["d"]))
    assert heights == {"20.000"}  # 80 percent, from above
    assert not page.root.one("svg", **{"data-key": "load-1"}).all("path", class_="gpu")
    for handler, node in ((0, "edge"), (1, "cloud"), (3, "edge")):
        bar = page.root.one("svg", **{"data-handler": str(handler)}).one("rect")
        assert (float(bar.attributes["x"]), float(bar.attributes["width"])) == (0, 1000)
        assert bar.one("title").text == f"{node}: first plan"
    assert [row[:2] for row in page.table("Placements")][1] == ["1 face_detection", "cloud"]


def test_a_load_stands_until_the_next_one_for_a_while(tmp_path):
    place = tmp_path / "records.db"
    with Store(place) as store:
        open_session(store)
        loads = [NodeSample(EPOCH_S + at_s, EDGE, cpu) for at_s, cpu in ((1, 50.0), (2, 25.0))]
        keep(store, rows_of(own_frames(100)), nodes=loads)
    account = account_of(place, "1")
    (load,) = account.loads
    cpu = load.values["cpu"]
    for index, value in enumerate(cpu):
        at_s = account.begin_s + (index + 0.5) * account.stretch_s - EPOCH_S
        if abs(at_s % 1) < 0.2 or abs(at_s % 1) > 0.8:
            continue  # which stretch a sample is in is not the point
        assert value == (None if at_s < 1 or at_s > 7 else 50.0 if at_s < 2 else 25.0), at_s
