"""The endpoints of a running node, as callers see them."""

from __future__ import annotations

import base64
import http.client
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import msgspec
import numpy as np
import psutil
import pytest
from node_kit import Caller

from vdag import _native as native

pytestmark = pytest.mark.slow  # as a whole

DETECT = "/execute_task/face_detection"
MSGPACK = "application/msgpack"
#: Where the man's face is in the first frame, found by eye.
FACE = (62, 30, 118, 104)
WAIT_S = 30.0


def form(name: str, content: bytes) -> tuple[bytes, str]:
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'
    return head.encode() + content + b"\r\n--XX--\r\n", "multipart/form-data; boundary=XX"


def assert_finds_the_face(found) -> None:
    (box,) = found["bbox"]
    assert len(found["prob"]) == 1
    left, top, right, bottom = (
        max(box[i], FACE[i]) if i < 2 else min(box[i], FACE[i]) for i in range(4)
    )
    both = (right - left) * (bottom - top)
    area = (box[2] - box[0]) * (box[3] - box[1])
    assert both / (area + 56 * 74 - both) > 0.5


def test_every_encoding_of_a_picture_is_looked_at(caller, portrait, jpeg, literal):
    png = cv2.imencode(".png", portrait)[1].tobytes()
    raw = {"shape": list(portrait.shape), "data": portrait.tobytes()}
    replies = [
        caller.post(DETECT, {"image": literal}),
        caller.post(DETECT, {"image": base64.b64encode(jpeg).decode()}),
        caller.post(DETECT, {"image": portrait.tolist()}),
        caller.post(DETECT, jpeg, "image/jpeg"),
        caller.post(DETECT, png, "image/png"),
        caller.post(DETECT, *form("image", jpeg)),
        caller.post(
            DETECT, msgspec.msgpack.encode({"image": raw}), MSGPACK, accept="application/json"
        ),
    ]
    for reply in replies:
        assert reply.status == 200, reply.body
        assert_finds_the_face(reply.json())


def test_messagepack_comes_back_as_messagepack_with_pictures_as_bytes(caller, jpeg):
    reply = caller.post(DETECT, msgspec.msgpack.encode({"image": jpeg}), MSGPACK)
    assert (reply.status, reply.headers["content-type"]) == (200, MSGPACK)
    found = msgspec.msgpack.decode(reply.body)
    assert_finds_the_face(found)
    assert native.jpeg.decode(found["faces"][0]).shape[2] == 3


@pytest.mark.parametrize("wanted", ["literal", "base64", "none"])
def test_pictures_of_the_reply_are_written_as_asked(caller, jpeg, wanted):
    found = caller.post(f"{DETECT}?pictures={wanted}", jpeg, "image/jpeg").json()
    if wanted == "none":
        assert "faces" not in found
        return
    (face,) = found["faces"]
    data = (
        base64.b64decode(face)
        if wanted == "base64"
        else native.literal.decode(face, max_nbytes=1 << 20)
    )
    assert native.jpeg.decode(data).shape[2] == 3


def test_faces_of_one_reply_are_the_input_of_the_next_request(caller, literal):
    found = caller.post(DETECT, {"image": literal}).json()
    request = {name: found[name] for name in ("faces", "bbox", "prob")}
    reply = caller.post("/execute_task/face_alignment", request).json()
    assert reply["count_result"]["total"] == 1
    ((yaw, pitch, roll),) = reply["head_pose"]
    assert max(map(abs, (yaw, pitch, roll))) < 30


def test_a_list_is_answered_in_order(caller, portrait):
    pictures = [
        native.literal.encode(native.jpeg.encode(picture, quality=95))
        for picture in (portrait, np.zeros_like(portrait), portrait)
    ]
    reply = caller.post("/concurrent_execute_task_new/face_detection", {"image_list": pictures})
    assert [len(found["bbox"]) for found in reply.json()["output_ctx_list"]] == [1, 0, 1]
    reply = caller.post("/concurrent_execute_task_new/face_detection", {"image_list": []})
    assert (reply.status, reply.json()["output_ctx_list"]) == (200, [])


def test_a_reply_says_who_did_it_and_how_long_it_took(node, caller, literal):
    found = caller.post(DETECT, {"image": literal, "task_conf": {"fps": 30}}).json()
    info = found["proc_resource_info"]
    workers = psutil.Process(node.process.pid).children()
    assert info["pid"] in [worker.pid for worker in workers]
    assert 0 < info["compute_latency"] <= info["all_latency"] < WAIT_S
    assert (info["device_ip"], info["node_ip"], info["node_role"]) == (
        "127.0.0.1", "127.0.0.1", "cloud",
    )  # fmt: skip
    assert found["task_conf"] == {"fps": 30, "resolution": {"w": 176, "h": 144}}
    (other,) = found["proc_resource_info_list"]
    assert other == {**info, "latency": info["compute_latency"]}
    assert found["execute_flag"] is True


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "error"),
    [
        (DETECT, b"{}", "application/json", 400, "face_detection needs the field image"),
        (DETECT, b"{", "application/json", 400, "body is malformed: input data was truncated"),
        (DETECT, b"x", "text/html", 415, "content-type text/html is none of application/json, "
         "application/msgpack, multipart/form-data, image/jpeg, image/png, "
         "application/octet-stream"),
        (DETECT, b"GIF89a", "image/png", 422, "field image: "
         "picture is neither JPEG nor PNG: it begins with b'GIF89a'"),
        (DETECT, b'{"image": 3}', "application/json", 422,
         "field image: picture is neither a string nor nested lists"),
        (f"{DETECT}?pictures=gif", b"{}", "application/json", 400,
         "pictures is 'gif', expected literal, base64 or none"),
        (f"{DETECT}?deadline_s=nan", b"{}", "application/json", 400,
         "deadline_s is 'nan', expected 0.001 to 10"),
        ("/nowhere", b"{}", "application/json", 404, "not found"),
        ("/get_service_list", b"{}", "application/json", 405, "method not allowed"),
        ("/limit_task_resource", b'{"task_name": "x", "cpu_util_limit": 1}', "application/json",
         400, "task 'x' is none of face_detection, face_alignment, car_detection, "
         "helmet_detection"),
        ("/limit_process_resource", b'{"task_name": "car_detection", "pid": 1}',
         "application/json", 400, "pid 1 is no worker of car_detection"),
        ("/add_work_process", b'{"task_name": "car_detection", "model_ctx": {"weights": "x.pt"}}',
         "application/json", 400, "weights 'x.pt' are not here, expected one of nanodet"),
        ("/decrease_work_process", b'{"task_name": "face_detection"}', "application/json", 400,
         "face_detection has one worker, which stays"),
    ],
)  # fmt: skip
def test_errors_are_json_and_say_why(caller, path, body, kind, status, error):
    reply = caller.post(path, body, kind)
    assert (reply.status, reply.json()) == (status, {"status": 1, "error": error})
    assert reply.headers["content-type"] == "application/json"


def test_an_unregistered_task_is_answered_as_documented(caller, literal):
    reply = caller.post("/execute_task/nothing", {"image": literal})
    assert (reply.status, reply.json()) == (200, {"error": "unregistered services", "status": 1})


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(caller):
    reply = caller.ask("POST", DETECT, b"", content_length="9000000")
    assert reply.status == 413
    assert reply.json()["error"] == "body of 9000000 bytes or more exceeds 8388608"


def test_a_body_without_a_length_is_refused_when_it_is_too_large(node):
    connection = http.client.HTTPConnection(node.url.removeprefix("http://"), timeout=WAIT_S)
    chunks = iter([b"x" * (1 << 20)] * 9)
    try:
        connection.request("POST", DETECT, chunks, {"content-type": "image/jpeg"})
        response = connection.getresponse()
        assert response.status == 413
        assert re.match(rb'{"status":1,"error":"body of \d+ bytes or more exceeds', response.read())
    finally:
        connection.close()


def test_what_cannot_be_done_in_time_is_to_be_tried_again(caller, jpeg):
    reply = caller.post(f"{DETECT}?deadline_s=0.001", jpeg, "image/jpeg")
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")


def test_pages_of_any_origin_may_ask(caller):
    reply = caller.get("/get_service_list", origin="http://page.example")
    assert reply.headers["access-control-allow-origin"] == "http://page.example"
    assert reply.headers["vary"] == "Origin"
    assert caller.get("/get_service_list").headers["access-control-allow-origin"] == "*"
    assert caller.get("/nowhere").headers["access-control-allow-origin"] == "*"
    reply = caller.ask(
        "OPTIONS",
        DETECT,
        origin="http://page.example",
        access_control_request_method="POST",
        access_control_request_headers="content-type",
    )
    assert reply.status == 200
    assert reply.headers["access-control-allow-headers"] == "content-type"
    assert "POST" in reply.headers["access-control-allow-methods"]


def test_a_node_by_itself_is_in_every_overview(node, caller):
    place = node.url.removeprefix("http://")
    urls = caller.get("/get_execute_url/car_detection").json()
    assert urls[place]["url"] == f"{node.url}/execute_task/car_detection"
    assert caller.get("/get_execute_url/nothing").status == 404
    info = caller.get("/get_cluster_info").json()["127.0.0.1"]
    assert (info["node_role"], info["n_cpu"]) == ("cloud", os.cpu_count())
    assert len(info["device_state"]["cpu_ratio"]) == info["n_cpu"]
    status = caller.get("/get_system_status").json()
    assert status["cloud"]["127.0.0.1"]["service_state"].keys() == info["service_state"].keys()
    resources = caller.get("/get_resource_info").json()
    for role in ("cloud", "edge", "host"):
        assert resources[role]["127.0.0.1"]["car_detection"]["n_process"] >= 1


def test_the_service_lists_its_tasks_in_their_order(caller):
    assert caller.get("/get_service_list").json() == [
        "face_detection", "face_alignment", "car_detection", "helmet_detection",
    ]  # fmt: skip


def test_a_node_that_serves_is_well_and_ready(caller):
    for path in ("/healthz", "/readyz"):
        assert (caller.get(path).status, caller.get(path).json()) == (200, {"status": 0})


def test_metrics_tell_of_requests_tasks_and_workers(caller, jpeg):
    caller.post(DETECT, jpeg, "image/jpeg")
    text = caller.get("/metrics").body.decode()
    assert re.search(r'vdag_requests_total{status="200",task="face_detection"} [1-9]', text)
    for name in (
        "vdag_request_seconds_bucket", "vdag_queue_frames", "vdag_frames_dropped_total",
        "vdag_task_compute_seconds", "vdag_worker_frames_total", "vdag_worker_batches_total",
        "vdag_workers", "vdag_slots", "vdag_works_total",
    ):  # fmt: skip
        assert re.search(rf"^{name}{{", text, re.MULTILINE), name


def test_the_interface_is_documented(caller):
    assert caller.get("/docs").status == 200
    paths = caller.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/execute_task/{task}", "/execute_task_old/{task}", "/execute_task_new/{task}",
        "/concurrent_execute_task_new/{task}", "/service/{task}", "/get_service_list",
        "/get_execute_url/{task}", "/get_system_status", "/get_cluster_info",
        "/get_resource_info", "/add_work_process", "/decrease_work_process",
        "/limit_process_resource", "/limit_task_resource", "/upload-json-and-codefiles-api",
        "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    content = paths["/execute_task/{task}"]["post"]["requestBody"]["content"]
    assert content["application/json"]["examples"]["face_detection"]["value"]["image"]


def test_a_worker_comes_and_goes(caller):
    before = caller.get("/get_resource_info").json()["cloud"]["127.0.0.1"]["car_detection"]
    request = {"task_name": "car_detection", "model_ctx": {"weights": "nanodet", "device": "cpu"}}
    added = caller.post("/add_work_process", request).json()
    assert added["n_process"] == before["n_process"] + 1
    assert added["model_ctx"]["device"] == "cpu"
    removed = caller.post("/decrease_work_process", {"task_name": "car_detection"}).json()
    assert removed["n_process"] == before["n_process"]


def test_a_worker_that_cannot_start_is_not_kept(caller):
    request = {"task_name": "helmet_detection", "model_ctx": {"model_id": 77}}
    reply = caller.post("/add_work_process", request)
    assert (reply.status, reply.json()["status"]) == (400, 1)
    assert "model_id 77" in reply.json()["error"]
    info = caller.get("/get_resource_info").json()["cloud"]["127.0.0.1"]
    assert info["helmet_detection"]["n_process"] == 1


def test_a_limit_shows_in_replies_until_it_is_lifted(caller, jpeg):
    request = {"task_name": "face_detection", "cpu_util_limit": 0.5, "mem_util_limit": 1.0}
    reply = caller.post("/limit_task_resource", request)
    if reply.status == 409:
        pytest.skip(reply.json()["error"])
    assert reply.json()["cpu_util_limit"] == 0.5
    info = caller.post(DETECT, jpeg, "image/jpeg").json()["proc_resource_info"]
    assert info["cpu_util_limit"] == 0.5
    process = {"task_name": "face_detection", "pid": info["pid"], "cpu_util_limit": 0.25}
    assert caller.post("/limit_process_resource", process).status == 200
    info = caller.post(DETECT, jpeg, "image/jpeg").json()["proc_resource_info"]
    assert info["cpu_util_limit"] == 0.25
    caller.post("/limit_process_resource", process | {"cpu_util_limit": 1.0})
    caller.post("/limit_task_resource", request | {"cpu_util_limit": 1.0})
    state = caller.get("/get_cluster_info").json()["127.0.0.1"]["service_state"]
    lifted = {"cpu_util_limit": 1.0, "mem_util_limit": 1.0, "models": [0, 1, 2]}
    assert state["face_detection"] == lifted


def test_every_request_is_answered_while_workers_are_killed(node, jpeg):
    def ask(count: int) -> list[int]:
        caller = Caller(node.url)
        try:
            return [caller.post(DETECT, jpeg, "image/jpeg").status for _ in range(count)]
        finally:
            caller.close()

    first = Caller(node.url)
    with ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(ask, 12) for _ in range(8)]
        reply = first.post(DETECT, jpeg, "image/jpeg").json()
        os.kill(reply["proc_resource_info"]["pid"], signal.SIGKILL)
        statuses = [status for caller in callers for status in caller.result(WAIT_S)]
    assert statuses == [200] * 96
    first.close()  # by now the service may have closed it itself, as nothing came for a while
    first = Caller(node.url)
    deadline = time.monotonic() + WAIT_S
    while first.get("/readyz").status != 200:
        assert time.monotonic() < deadline
    first.close()
