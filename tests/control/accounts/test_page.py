"""The page of a session: it stands alone, can be read by everyone, and is there at any length."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess

import pytest
from packet_kit import (
    CLOUD,
    EDGE,
    EPOCH_S,
    NODES,
    WAIT_S,
    foreign_frames,
    foreign_report,
    keep,
    open_session,
    own_frames,
    rows_of,
)
from page_kit import Page, account_of

from vdag.control.accounts import render
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

NASTY = "<script>alert('x')</script>&\"'</title>--> \u202e"


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
