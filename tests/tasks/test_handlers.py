"""The documents' handlers at work on real pictures."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vdag
from vdag import open_source, tasks
from vdag.control.service import replies
from vdag.control.service.execution import Answer
from vdag.control.service.schemas import Order, Work
from vdag.control.service.staff import ProcessState
from vdag.errors import ConfigError, GraphError, ImageError, SinkError
from vdag.tasks import TaskOptions, base
from vdag.tasks.handlers import render
from vdag.tasks.handlers.ordering import InOrder
from vdag.tasks.naming import name_of
from vdag.transport import context as wire_context

CPU = TaskOptions(device="cpu")
WAIT_S = 20.0


def load(task, options=CPU, /, **params):
    return tasks.load(name_of(task, params), options)


def run(task, inputs, options=CPU, /, **params):
    """What a task finds in one frame."""
    with closing(load(task, options, **params)) as loaded:
        (outputs,) = loaded.process([inputs])
    assert outputs.keys() >= loaded.signature.outputs
    packed = b"".join(wire_context.pack({task: outputs}))
    assert wire_context.unpack(memoryview(packed)).keys() == {task}  # it can travel
    return outputs


@pytest.fixture
def face(carphone_frames):
    return carphone_frames[0]


@pytest.fixture
def street(bikes_frames):
    return bikes_frames[140]


@pytest.fixture
def staff() -> Iterator[None]:
    """A recogniser of a user's: it goes by how bright a picture is."""

    @vdag.task(outputs=["label", "prob"])
    def staff(image):
        bright = float(image.mean()) / 255
        return {"label": "day" if bright > 0.5 else "night", "prob": bright}

    yield
    base._registry.pop("staff", None)


@pytest.mark.parametrize(("width", "height"), [(88, 72), (352, 288), (176, 10), (1, 1)])
def test_a_picture_is_resized_to_what_was_asked_for(face, width, height):
    image = run("resize", {"image": face}, width=width, height=height)["image"]
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert abs(float(image.mean()) - float(face.mean())) < 40


def test_a_picture_of_the_right_size_is_left_alone(face):
    assert run("resize", {"image": face}, width=176, height=144)["image"] is face


def test_a_jpeg_is_bytes_and_becomes_the_picture_again(face):
    jpeg = run("encode", {"image": face}, quality=95)["jpeg"]
    assert jpeg.dtype == np.uint8
    assert jpeg.ndim == 1
    assert bytes(jpeg[:2]) == b"\xff\xd8"
    worse = run("encode", {"image": face}, quality=0)["jpeg"]
    assert len(worse) < len(jpeg) < face.nbytes
    image = run("decode", {"jpeg": jpeg})["image"]
    assert image.shape == face.shape
    assert float(np.abs(image.astype(int) - face).mean()) < 3
    column = run("decode", {"jpeg": jpeg[:, None]})["image"]  # of OpenCV's older versions
    assert np.array_equal(column, image)


@pytest.mark.parametrize(
    "jpeg", [np.zeros(100, np.uint8), np.zeros(0, np.uint8), b"\xff\xd8", None]
)
def test_what_is_no_jpeg_is_refused(jpeg):
    with closing(load("decode")) as decode, pytest.raises(ImageError):
        decode.process([{"jpeg": jpeg}])


def test_a_face_is_found_with_its_place_and_its_crop(face):
    outputs = run("detect_faces", {"image": face}, thresh=0.5)
    (box,) = outputs["boxes"]
    assert box["label"] == "face"
    assert box["prob"] > 0.5
    assert 40 < box["x"] + box["w"] / 2 < 130
    assert 30 < box["h"] < 144
    (crop,) = outputs["crops"]
    assert np.array_equal(
        crop, face[box["y"] : box["y"] + box["h"], box["x"] : box["x"] + box["w"]]
    )
    assert outputs["count_result"] == {"face": 1}


def test_what_is_too_small_or_too_unsure_is_no_face(face):
    for params in ({"min_size": 140}, {"thresh": 1.0}):
        outputs = run("detect_faces", {"image": face}, **params)
        assert (outputs["boxes"], outputs["crops"], outputs["count_result"]) == ([], [], {})


def test_without_crops_there_are_none(face):
    outputs = run("detect_faces", {"image": face}, with_crop=False)
    assert len(outputs["boxes"]) == 1
    assert outputs["crops"] == []
    box = outputs["boxes"][0]  # whoever has the picture still gets at them
    again = run("detect_faces", {"image": face, "boxes": [box], "crops": []})
    assert len(again["boxes"]) == 1


def test_a_face_is_cut_out_upright_if_asked_for(face):
    (crop,) = run("detect_faces", {"image": face}, dim=160)["crops"]
    assert crop.shape == (160, 160, 3)
    assert float(crop.std()) > 20


def test_objects_are_named_and_can_be_chosen(street):
    everything = run("detect_objects", {"image": street}, thresh=0.3)
    cars = run("detect_objects", {"image": street}, thresh=0.3, targets="car, bus")
    assert {"car", "person"} <= set(everything["count_result"])
    assert cars["count_result"] == {"car": everything["count_result"]["car"]}
    assert len(run("detect_objects", {"image": street})["boxes"]) < len(cars["boxes"])
    for box in everything["boxes"]:
        assert box["prob"] >= 0.3
        assert 0 <= box["x"] < box["x"] + box["w"] <= street.shape[1]
        assert 0 <= box["y"] < box["y"] + box["h"] <= street.shape[0]


def test_a_class_that_the_model_has_not_is_refused():
    message = (
        r"^detect_objects: targets has 'unicorn', which is none of the 80 classes of the model: "
    )
    with pytest.raises(ConfigError, match=message + "person, bicycle, "):
        load("detect_objects", targets="car,unicorn")


def test_the_largest_of_several_is_kept_alone(street):
    outputs = run("detect_objects", {"image": street}, thresh=0.4)
    assert len(outputs["boxes"]) > 1
    (best,) = run("detect_objects", {"image": street}, thresh=0.4, multiple=False)["boxes"]
    assert best["prob"] == max(box["prob"] for box in outputs["boxes"])


def test_of_nothing_the_largest_is_nothing():
    dark = np.zeros((120, 160, 3), np.uint8)
    outputs = run("detect_faces", {"image": dark}, multiple=False)
    assert outputs["boxes"] == []


def test_boxes_within_boxes_are_where_they_are_in_the_frame(face):
    canvas = np.full((300, 400, 3), 90, np.uint8)
    canvas[100:244, 200:376] = face
    man = {"label": "man", "prob": None, "x": 200, "y": 100, "w": 176, "h": 144}
    (alone,) = run("detect_faces", {"image": face})["boxes"]
    by_image = run("detect_faces", {"image": canvas, "boxes": [man]})
    by_crop = run("detect_faces", {"boxes": [man], "crops": [face]})
    assert by_image["boxes"] == by_crop["boxes"]
    (box,) = by_image["boxes"]
    assert (box["x"], box["y"], box["w"]) == (alone["x"] + 200, alone["y"] + 100, alone["w"])
    assert np.array_equal(by_image["crops"][0], by_crop["crops"][0])
    assert run("detect_faces", {"boxes": [], "crops": []})["boxes"] == []


def test_a_batch_is_one_frame_after_the_other(face, street):
    with closing(load("detect_faces")) as detect:
        found = detect.process([{"image": face}, {"image": street}, {"image": face}])
    assert found[0]["boxes"] == found[2]["boxes"]
    assert len(found) == 3


@pytest.mark.parametrize("task", ["detect_faces", "align"])
def test_boxes_whose_pixels_are_nowhere_are_refused(task):
    box = {"label": None, "prob": None, "x": 0, "y": 0, "w": 9, "h": 9}
    with closing(load(task)) as loaded:
        with pytest.raises(
            ValueError, match=r"the boxes have no crops, with_crop of the one before "
        ):
            loaded.process([{"boxes": [box]}])
        with pytest.raises(ValueError, match=r"needs the field image or the field boxes$"):
            loaded.process([{}])
        with pytest.raises(ValueError, match=r"^1 crops for 2 boxes$"):
            loaded.process([{"boxes": [box, box], "crops": [np.zeros((9, 9, 3), np.uint8)]}])


def test_a_head_that_is_turned_is_turned_back(face):
    height, width = face.shape[:2]
    (box,) = run("detect_faces", {"image": face})["boxes"]
    centre = (box["x"] + box["w"] / 2, box["y"] + box["h"] / 2)
    upright = run("align", {"image": face, "boxes": [box]}, dim=128)
    assert upright["boxes"] == [box]
    (wanted,) = upright["crops"]
    assert wanted.shape == (128, 128, 3)
    turn = cv2.getRotationMatrix2D(centre, -25, 1.0)  # clockwise
    tilted = cv2.warpAffine(face, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    (crop,) = run("align", {"image": tilted, "boxes": [box]}, dim=128)["crops"]
    centre_of = slice(32, 96), slice(32, 96)
    as_it_was = np.corrcoef(wanted[centre_of].ravel(), crop[centre_of].ravel())[0, 1]
    plain = cv2.resize(
        tilted[box["y"] : box["y"] + box["h"], box["x"] : box["x"] + box["w"]], (64, 64)
    )
    untouched = cv2.resize(
        face[box["y"] : box["y"] + box["h"], box["x"] : box["x"] + box["w"]], (64, 64)
    )
    assert as_it_was > 0.8
    assert as_it_was > np.corrcoef(plain.ravel(), untouched.ravel())[0, 1]


def test_what_is_no_face_is_cut_out_as_it_is():
    flat = np.full((60, 80, 3), 120, np.uint8)
    outputs = run("align", {"image": flat}, dim=32)
    assert outputs["boxes"] == [{"label": None, "prob": None, "x": 0, "y": 0, "w": 80, "h": 60}]
    assert np.all(outputs["crops"][0] == 120)


@pytest.mark.usefixtures("staff")
def test_a_task_of_the_users_names_each_box(face):
    boxes = [{"label": "face", "prob": 0.9, "x": x, "y": 0, "w": 9, "h": 9} for x in (0, 30)]
    crops = [np.full((9, 9, 3), value, np.uint8) for value in (0, 204)]
    outputs = run("recognise", {"boxes": boxes, "crops": crops}, task="staff")
    assert [(box["label"], box["x"]) for box in outputs["boxes"]] == [("night", 0), ("day", 30)]
    assert [box["prob"] for box in outputs["boxes"]] == pytest.approx([0.0, 0.8])
    assert boxes[0]["label"] == "face"  # what others have found stays
    outputs = run("recognise", {"boxes": boxes, "crops": crops}, task="staff", thresh=0.5)
    assert outputs["count_result"] == {"day": 1, "unknown": 1}
    (whole,) = run("recognise", {"image": face}, task="staff")["boxes"]
    assert (whole["w"], whole["h"]) == (176, 144)


@pytest.mark.usefixtures("staff")
def test_what_a_task_needs_is_told():
    assert tasks.needs(name_of("recognise", {"task": "staff"})) == ("staff",)
    assert tasks.needs("recognise") == tasks.needs("resize") == ()


@pytest.mark.usefixtures("staff")
def test_without_a_model_of_the_users_nothing_is_recognised():
    with pytest.raises(
        ConfigError,
        match=r"^recognise needs a model of your own: the parameter task names a task of a "
        r"Python file that gives a label for an image, or a model card of decode\.kind classes$",
    ):
        load("recognise")
    with pytest.raises(GraphError, match=r"^unknown task 'nobody'"):
        load("recognise", task="nobody")
    with pytest.raises(ConfigError, match=r"^recognise: task face_detection takes image and gives "
                       r"bbox, faces, landmarks, prob, expected image and label$"):  # fmt: skip
        load("recognise", task="face_detection")


CARD = """
name = "shades"
version = "1"
file = "shades.onnx"
[input]
name = "images"
colour = "BGR"
resize = "stretch"
scale = 0.00392156862745098
size = [8, 8]
[decode]
kind = "classes"
threshold = 0.6
classes = ["dark", "light"]
"""


@pytest.fixture
def card(tmp_path: Path) -> TaskOptions:
    """A classifier of a user's: the logit of `light` rises with the mean of the picture."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
    ]
    weights = np.array([[-4.0, 4.0]] * 3, np.float32)
    bias = np.array([6.0, -6.0], np.float32)
    graph = helper.make_graph(
        nodes,
        "shades",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(tmp_path / "shades.onnx"))
    path = tmp_path / "shades.toml"
    path.write_text(CARD)
    return TaskOptions(device="cpu", card=path)


def test_a_card_of_the_users_names_each_box(card):
    crops = [np.full((20, 10, 3), value, np.uint8) for value in (0, 255, 127)]
    boxes = [{"label": None, "prob": None, "x": n, "y": 0, "w": 10, "h": 20} for n in range(3)]
    outputs = run("recognise", {"boxes": boxes, "crops": crops}, card)
    assert [box["label"] for box in outputs["boxes"]] == ["dark", "light", None]
    probs = [box["prob"] for box in outputs["boxes"]]
    assert probs[0] == pytest.approx(1 / (1 + np.exp(-12)), abs=1e-4)
    assert probs[2] < 0.6


def test_a_card_with_other_classes_than_its_model_is_told(card):
    card.card.write_text(CARD.replace('["dark", "light"]', '["dark", "light", "none"]'))
    message = r"^model shades gives 2 numbers, its card names 3 classes$"
    with (
        closing(load("recognise", card)) as recognise,
        pytest.raises(ValueError, match=message),
    ):
        recognise.process([{"image": np.zeros((8, 8, 3), np.uint8)}])


@pytest.mark.parametrize("task", ["draw_boxes", "draw_labeled_boxes"])
def test_boxes_are_drawn_into_a_picture_of_its_own(task, street):
    street = street.view()
    street.flags.writeable = False
    box = {"label": "car", "prob": 0.75, "x": 200, "y": 100, "w": 150, "h": 100}
    image = run(task, {"image": street, "boxes": [box]})["image"]
    assert image.shape == street.shape
    changed = np.any(image != street, axis=2)
    color = (0, 255, 255) if task == "draw_boxes" else (255, 0, 255)
    for column in (200, 349):
        assert np.abs(image[110:190, column].astype(int) - color).max() < 32
    assert changed[100:200, 200].all()
    assert not changed[110:190, 210:340].any()
    assert changed[70:98, 200:260].any() == (task == "draw_labeled_boxes")
    assert np.array_equal(run(task, {"image": street, "boxes": []})["image"], street)


def test_a_box_far_outside_is_drawn_nowhere(street):
    box = {"label": "x", "prob": None, "x": 10**12, "y": -(10**12), "w": 5, "h": 5}
    assert np.array_equal(run("draw_boxes", {"image": street, "boxes": [box]})["image"], street)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(render.FOLDER, str(tmp_path))
    return tmp_path


def test_a_video_is_there_when_the_task_is_closed(folder, carphone_frames):
    with closing(load("render", to="seen.mp4", fps=10)) as show:
        for seq, image in enumerate(carphone_frames[:10]):
            assert show.process([{"image": image, "seq": seq}]) == [{"shown": True}]
        assert not (folder / "seen.mp4").exists()
    with open_source(folder / "seen.mp4") as source:
        frames = list(source)
    assert [frame.pts_s for frame in frames] == pytest.approx([n / 10 for n in range(10)])
    assert frames[0].pixels.shape == (144, 176, 3)
    assert float(np.abs(frames[5].pixels.astype(int) - carphone_frames[5]).mean()) < 8


def test_a_video_has_its_frames_in_order_and_waits_for_none(folder, face):
    with closing(load("render", to="gaps.mkv", fps=10)) as show:
        numbers = [*range(2, 30), 1, 31, 30, 30, 0, 1]  # 0 comes never, and at last once more
        shown = [show.process([{"image": face, "seq": seq}])[0]["shown"] for seq in numbers]
    assert shown == [True] * 28 + [False, True, True, False, True, True]
    with open_source(folder / "gaps.mkv") as source:
        times = [frame.pts_s for frame in source]
    assert times == pytest.approx([n / 10 for n in range(32)], abs=2e-3)  # 2 to 31, then two more


def test_what_is_shown_live_is_shown_at_once_or_not_at_all(face):
    with closing(load("render", to=":0")) as show:
        numbers = [0, 1, 4, 3, 4, 5, 400, 5, 0]
        shown = [show.process([{"image": face, "seq": seq}])[0]["shown"] for seq in numbers]
        assert shown == [True, True, True, False, False, True, True, True, True]


@settings(deadline=None)
@given(
    numbers=st.lists(st.integers(0, 40), unique=True),
    lost=st.sets(st.integers(0, 40)),
    room=st.integers(0, 50),
)
def test_pictures_come_out_in_order_and_none_twice(numbers, lost, room):
    out = []
    order = InOrder(lambda pixels, seq: out.append((seq, int(pixels[0]))), room)
    came = [seq for seq in numbers if seq not in lost and seq > 0]  # 0 begins anew
    kept = [seq for seq in came if order.put(np.array([seq]), seq)]
    assert len(kept) - len(out) <= room
    order.flush()
    assert out == [(seq, seq) for seq in sorted(kept)]
    if room >= len(came):
        assert kept == came


@pytest.mark.parametrize(
    "to",
    ["", "../out.mp4", "/tmp/out.mp4", "a/b.mp4", ".mp4", "out.avi", "out", "host", ":99999", ":x"],
)
def test_pictures_go_nowhere_else(folder, to):
    with pytest.raises(
        ConfigError, match=rf"^render: to is {re.escape(repr(to))}, expected window, "
    ):
        load("render", to=to)


def test_a_window_without_a_display_is_refused(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(
        ConfigError,
        match=r"^render: a window needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set; "
        r"the parameter to may be a file such as out\.mp4, or an address such as :8090$",
    ):
        load("render")


def test_an_opencv_without_windows_is_told(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":99")

    def refuse(*_):
        raise cv2.error("The function is not implemented. Rebuild the library")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(SinkError, match=r"^render: OpenCV opens no window \(The function is not "):
        load("render", to="window")


class Viewer:
    """A browser that looks at a render's address."""

    def __init__(self, address):
        host, port = re.fullmatch(r"http://([^:]+):(\d+)/", address).groups()
        self.connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
        self.connection.request("GET", "/")
        self.reply = self.connection.getresponse()

    def picture(self):
        """Return the next picture; None at the end."""
        assert self.reply.readline() in (b"--frame\r\n", b"--frame--\r\n")
        length = 0
        while (line := self.reply.readline().strip()) or not length:
            if not line:
                return None
            name, _, value = line.partition(b": ")
            length = int(value) if name == b"Content-Length" else length
        data = self.reply.read(length)
        assert self.reply.readline() == b"\r\n"
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_browsers_see_the_newest_picture():
    one, two = (np.full((40, 60, 3), value, np.uint8) for value in (50, 200))
    with closing(load("render", to=":0")) as show:
        assert show.address.startswith("http://127.0.0.1:")
        show.process([{"image": one, "seq": 0}])
        viewer = Viewer(show.address)
        assert viewer.reply.status == 200
        assert viewer.reply.getheader("Content-Type") == "multipart/x-mixed-replace; boundary=frame"
        assert abs(int(viewer.picture().mean()) - 50) < 3
        show.process([{"image": two, "seq": 1}])
        means = (int(viewer.picture().mean()) for _ in range(20))  # the first may come once more
        assert any(abs(mean - 200) < 3 for mean in means)
        ending = threading.Thread(target=show.close)
        ending.start()
        while viewer.picture() is not None:
            pass
        ending.join(WAIT_S)
        assert not ending.is_alive()
        viewer.connection.close()


def test_an_address_that_is_taken_is_told():
    with closing(load("render", to="127.0.0.1:0")) as show:
        taken = show.address.removeprefix("http://").rstrip("/")
        with pytest.raises(SinkError, match=rf"^render: {taken} cannot be bound: "):
            load("render", to=taken)


def test_viewers_are_counted():
    from vdag.tasks.handlers.mjpeg import MAX_VIEWERS

    with closing(load("render", to=":0")) as show:
        show.process([{"image": np.zeros((4, 4, 3), np.uint8), "seq": 0}])
        viewers = [Viewer(show.address) for _ in range(MAX_VIEWERS)]
        assert all(viewer.picture() is not None for viewer in viewers)
        assert Viewer(show.address).reply.status == 503
        for viewer in viewers:
            viewer.connection.close()


def test_a_jpeg_is_in_a_reply_as_it_is(face):
    outputs = run("encode", {"image": face})
    reply = replies.compose(
        Order([Work("encode")]),
        [Answer(outputs, 0, 1, 1)],
        [ProcessState(1)],
        all_latency_s=0.1,
        place=replies.Place("127.0.0.1", "edge"),
        form="binary",
    )
    assert reply["jpeg"] == outputs["jpeg"].tobytes()
