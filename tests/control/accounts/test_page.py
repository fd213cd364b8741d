"""The page of a session: what its pictures show is what is recorded, at any length."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from packet_kit import (
    CLOUD,
    EDGE,
    EPOCH_S,
    NODES,
    WAIT_S,
    Truth,
    foreign_frames,
    foreign_report,
    keep,
    open_session,
    own_frames,
    rows_of,
)

from vdag.control.accounts import Account, gather, render
from vdag.control.records import (
    Handler,
    NewQuery,
    NewSession,
    NodeRecord,
    NodeSample,
    Packet,
    Report,
    Store,
)
from vdag.control.records.inspection import Inspection
from vdag.control.records.opening import open_engine
from vdag.graph import Graph

#: Elements that have no end.
EMPTY = {"br", "hr", "img", "input", "link", "meta"}
NASTY = "<script>alert('x')</script>&\"'</title>--> \u202e"
STRETCHES = 120
CHANGES_S = (EPOCH_S + 2, EPOCH_S + 9)


@dataclass
class Element:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element] = field(default_factory=list)
    own: list[str] = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Everything inside of a tag, with all these attributes; `class_` is one of the classes."""
        found = []
        for child in self.children:
            names = child.attributes.get("class", "").split()
            if (not tag or child.tag == tag) and all(
                value in names if key == "class_" else child.attributes.get(key) == value
                for key, value in attributes.items()
            ):
                found.append(child)
            found += child.all(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        return "".join(self.own) + "".join(child.text for child in self.children)


class Page(HTMLParser):
    """A page as a tree; every element is ended, in its order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = self._at = Element("", {})
        self.html = html
        self.feed(html)
        self.close()
        assert self._at is self.root, f"{self._at.tag} is not ended"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs}, self._at)
        self._at.children.append(element)
        if tag not in EMPTY:
            self._at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._at.children.append(Element(tag, {k: v or "" for k, v in attrs}, self._at))

    def handle_endtag(self, tag: str) -> None:
        assert self._at.tag == tag, f"{tag} ends {self._at.tag}"
        assert self._at.parent is not None
        self._at = self._at.parent

    def handle_data(self, data: str) -> None:
        self._at.own.append(data)

    def table(self, name: str) -> list[list[str]]:
        region = self.root.one("div", **{"aria-label": name, "role": "region"})
        return [[cell.text for cell in row.children] for row in region.one("tbody").all("tr")]

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.root.one("script", id="data").text)


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


def account_of(place: Path, name: str, **options: int) -> Account:
    engine = open_engine(place)
    with engine.connect() as connection:
        inspection = Inspection(connection)
        found = gather(inspection, inspection.subject(name), **options)
    engine.dispose()
    return found


TRUTHS = own_frames(100, lost=[30, 31, 32])
WHOLE = [truth for truth in TRUTHS if truth.lost_at is None]


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


def test_the_page_loads_nothing_and_runs_its_own_script_alone(page):
    for element in page.root.all():
        for name, value in element.attributes.items():
            assert name not in ("src", "href", "srcset", "action", "data-src"), element
            assert not name.startswith("on"), element
            assert "url(" not in value
    assert "url(" not in page.root.one("style").text
    assert "@import" not in page.root.one("style").text
    script = page.root.all("script")[-1]
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    policy = page.root.one("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"].startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy.attributes["content"]


def test_the_script_finds_what_it_looks_for(page):
    charts = page.data["charts"]
    plots = {plot.attributes["data-key"]: plot for plot in page.root.all("svg")
             if "data-key" in plot.attributes}  # fmt: skip
    assert plots.keys() == charts.keys()
    assert {each.attributes["data-for"] for each in page.root.all("output")} == charts.keys()
    for key, plot in plots.items():
        count = int(plot.attributes["data-count"])
        assert len(plot.all("path", class_="cursor")) == 1
        assert len(charts[key]["values"]) == len(charts[key]["names"])
        assert all(len(line) == count for line in charts[key]["values"])
    used = {name for button in page.root.all("button") for name in [button.attributes["data-part"]]}
    assert used == {"transfer", "queue", "compute", "home"}


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to read scripts")
def test_the_script_is_one(page, tmp_path):
    path = tmp_path / "page.js"
    path.write_text(page.root.all("script")[-1].text)
    done = subprocess.run(["node", "--check", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_picture_and_table_has_a_name_and_headings_follow_one_another(page):
    assert page.root.one("html").attributes["lang"] == "en"
    assert page.root.one("head").one("title").text == page.root.one("h1").text == "GLOBAL_ID_1"
    for plot in page.root.all("svg"):
        assert plot.attributes["role"] == "img"
        assert plot.attributes["aria-label"]
    for region in page.root.all("div", role="region"):
        assert region.attributes["aria-label"]
        assert region.attributes["tabindex"] == "0"
        assert all(cell.attributes["scope"] == "col" for cell in region.all("th"))
    levels = [element.tag for element in page.root.all() if re.fullmatch(r"h\d", element.tag)]
    assert levels == ["h1", *["h2"] * 6]
    style = page.root.one("style").text
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 30rem"):
        assert rule in style
    names = [element.attributes["name"] for element in page.root.all("meta")
             if "name" in element.attributes]  # fmt: skip
    assert names == ["viewport"]


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    shares = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_in_the_light_and_in_the_dark(page):
    """WCAG 2.2, 1.4.3: text by 4.5 to 1; 1.4.11: lines by 3 to 1."""
    themes = re.findall(r":root \{(.*?)\}", page.root.one("style").text, re.DOTALL)
    assert len(themes) == 3
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#\w+);", theme))
        wanted = {"text": 4.5, "faint": 4.5, "mark": 3, "first": 3, "second": 3, "third": 3}
        for name, ratio in wanted.items():
            light, dark = sorted(map(_luminance, (colours[name], colours["page"])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= ratio, (name, colours[name])


def test_what_users_name_stays_text(tmp_path):
    place = tmp_path / "records.db"
    with Store(place) as store:
        store.add_query(NewQuery("n", 1, {"flow": [NASTY]}, {NASTY: NASTY}, NASTY)).result(WAIT_S)
        store.log.set_nodes([NodeRecord(1, NASTY, NASTY, NASTY)])
        handlers = [Handler(n, NASTY) for n in range(4)]
        new = NewSession(NASTY, NASTY, handlers, query_id=1, algorithm=NASTY[:40])
        store.log.add_session(new).result(WAIT_S)
        store.log.set_session_state(1, "failed", NASTY)
        store.log.place(1, {0: 1, 1: 1}, NASTY)
        documents = {"video_conf": {"resolution": NASTY}, "flow_mapping": {NASTY: {"a": NASTY}}}
        store.add_plan("GLOBAL_ID_1", 1, documents, NASTY)
        store.set_decision("GLOBAL_ID_1", 1, {"explanation": {"why": NASTY}})
        store.set_dropped("GLOBAL_ID_1", {NASTY: 1})
        keep(store, rows_of(own_frames(4)), nodes=[NodeSample(EPOCH_S + 0.1, 1, 1.0)])
    page = Page(render(account_of(place, "1")))
    assert len(page.root.all("script")) == 2
    assert "<script>alert" not in page.html
    rows = page.table("Plans")
    assert NASTY in rows[0][2]
    assert [row[0] for row in page.table("Dropped")] == [NASTY]


def test_a_session_of_nodes_that_nobody_has_described_has_a_page(tmp_path):
    place = tmp_path / "records.db"
    truths = foreign_frames(30, session_id=7, lost=[4])
    with Store(place) as store:
        for node in (EDGE, CLOUD):
            report = foreign_report(rows_of(truths), node)
            store.log.record_awaited(report).result(WAIT_S)
    page = Page(render(account_of(place, "7")))
    assert page.root.one("head").one("title").text == "session 7"
    parts = {(row[0], row[1]) for row in page.table("Percentiles")}
    assert {("handler 5", "compute"), ("handler 4", "transfer")} <= parts
    assert page.table("Seen last") == [["handler 2", "end", "1"]]


@pytest.mark.parametrize("has_session", [True, False], ids=["no packets", "one row"])
def test_of_next_to_nothing_there_is_a_page(tmp_path, has_session):
    place = tmp_path / "records.db"
    with Store(place) as store:
        if has_session:
            store.log.set_nodes(NODES)
            store.log.add_session(NewSession("street")).result(WAIT_S)
        else:
            store.log.record_awaited(Report([Packet(EPOCH_S, 1, 0, 0, "start")])).result(WAIT_S)
    text = Page(render(account_of(place, "1"))).root.one("body").text
    assert "No frame has come to its end." in text
    assert ("No packets of this session are recorded." in text) is has_session


def test_of_many_frames_some_are_looked_at_and_the_page_says_so(place):
    account = account_of(place, "1", max_frames=30)
    assert (account.step, account.summary.frames) == (4, 25)
    text = Page(render(account)).root.one("header").text
    assert "Every 4th frame of the sequences 0 to 99 was looked at." in text


@pytest.mark.slow
def test_a_page_of_a_million_packets_is_no_larger_than_one_of_a_few(tmp_path, page):
    """Of 84,000 frames, and as many more sequences as there are frames left out."""
    place = tmp_path / "records.db"
    pattern = own_frames(1000)
    each = rows_of(pattern)
    with Store(place) as store:
        open_session(store)
        rows: list[Packet] = []
        for turn in range(84):
            rows += [
                row._replace(
                    sequence=row.sequence + turn * 1000, timestamp=row.timestamp + turn * 125.0
                )
                for row in each
            ]
        assert len(rows) > 1_000_000
        keep(store, rows)
    account = account_of(place, "1", max_frames=40_000)
    assert account.extent is not None
    assert (account.extent.rows, account.step, account.summary.frames) == (len(rows), 3, 28_000)
    html = render(account)
    assert len(html) < 2 * len(page.html)
    assert account.summary.delay is not None
    expected = sorted(truth.delay_s for truth in pattern)
    assert account.summary.delay.p50_s == pytest.approx(expected[499], rel=0.02)
