"""Live pictures: what viewers get of a job, over real connections, directly and through a cloud."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from live_kit import TIMEOUT_S, TOKEN, Feeder, Site, picture, result

from vdag import _native as native
from vdag.control.jobs.live import MAX_WATCHERS
from vdag.errors import Saturated


@pytest.mark.parametrize("side", [0, 1])
def test_a_viewer_gets_pictures_as_documented(site, view, lease, side):
    with Feeder(view, lease):
        reply = site.get(side, "/user/video/GLOBAL_ID_1")
        assert reply.status == 200
        expected = "multipart/x-mixed-replace; boundary=frame"
        assert reply.headers["content-type"] == expected
        shapes = {picture(reply).shape for _ in range(3)}
        assert shapes == {(96, 128, 3)}


@pytest.mark.parametrize("side", [0, 1])
def test_what_was_found_is_drawn_for_those_who_ask_for_it(site, view, lease, side):
    with Feeder(view, lease):
        plain = site.get(side, "/user/video/GLOBAL_ID_1?overlay=0")
        drawn = site.get(side, "/user/video/GLOBAL_ID_1?overlay=1")
        assert np.ptp(picture(plain)) <= 2
        assert np.ptp(picture(drawn)) > 50


def test_the_stream_ends_with_its_job(site, view, lease):
    with Feeder(view, lease):
        replies = [site.get(side, "/user/video/GLOBAL_ID_1") for side in (0, 1)]
        for reply in replies:
            picture(reply)
        view.close()
        for reply in replies:
            reply.read()  # to its end, which comes
            assert reply.isclosed()


@pytest.mark.parametrize(("side", "msg"), [(0, "video not ready"), (1, "video not ready on cloud")])
def test_an_unknown_job_is_answered_as_documented(site, side, msg):
    reply = site.get(side, "/user/video/NOPE")
    assert (reply.status, json.loads(reply.read())) == (200, {"msg": msg, "status": 1})


def test_a_job_that_is_over_has_no_pictures(site, view):
    view.close()
    reply = site.get(0, "/user/video/GLOBAL_ID_1")
    assert json.loads(reply.read()) == {"msg": "video not ready", "status": 1}


def test_a_cloud_is_told_where_the_pictures_of_other_nodes_are(site, view, lease):
    told = {"job_uid": "GLOBAL_ID_1", "node_addr": "127.0.0.1:1"}
    reply = site.post("/user/update_node_addr", json.dumps(told).encode())
    msg = "update <job_uid, addr> (<GLOBAL_ID_1, 127.0.0.1:1>) to cloud"
    assert json.loads(reply.read())["msg"] == msg
    reply = site.get(1, "/user/video/GLOBAL_ID_1")  # nobody is there
    assert json.loads(reply.read()) == {"msg": "video not ready on cloud", "status": 1}
    told["node_addr"] = f"127.0.0.1:{site.ports[0]}"
    assert site.post("/user/update_node_addr", json.dumps(told).encode()).status == 200
    with Feeder(view, lease):
        reply = site.get(1, "/user/video/GLOBAL_ID_1")
        assert picture(reply).shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"job_uid": "x"}', 400),
        (b'{"job_uid": "x", "node_addr": "nowhere"}', 400),
        (b'{"job_uid": "x", "node_addr": "h:99999"}', 400),
        (b" " * 20_000, 413),
    ],
)
def test_a_wrong_address_is_refused(site, body, status):
    reply = site.post("/user/update_node_addr", body)
    assert reply.status == status
    assert json.loads(reply.read())["status"] == 1


def test_a_cloud_shows_nodes_the_token_that_it_was_shown(view, lease):
    site = Site(view, TOKEN)
    try:
        assert site.get(1, "/user/video/GLOBAL_ID_1").status == 401
        with Feeder(view, lease):
            reply = site.get(1, "/user/video/GLOBAL_ID_1", Authorization=f"Bearer {TOKEN}")
            assert picture(reply).shape == (96, 128, 3)
    finally:
        view.close()
        site.close()


def test_without_viewers_a_job_keeps_its_frames(view, lease):
    shown = result(1, lease)
    view.show(shown)
    assert shown.frame is not None
    shown.drop_frame()


def test_a_viewer_who_takes_nothing_misses_pictures_and_holds_none(view, lease):
    woken = threading.Semaphore(0)
    slow = view.watch(woken.release)
    for level in range(1, 6):
        view.show(result(level, lease))
        assert woken.acquire(timeout=TIMEOUT_S)
    newest = slow.take()
    assert newest is not None
    assert native.jpeg.decode(newest.data)[0, 0, 0] == pytest.approx(5, abs=2)
    assert slow.take() is None
    view.leave(slow)
    view.leave(slow)


def test_there_are_not_more_viewers_than_there_may_be(view):
    for _ in range(MAX_WATCHERS):
        view.watch(lambda: None)
    with pytest.raises(Saturated, match="64 viewers look on already"):
        view.watch(lambda: None)
