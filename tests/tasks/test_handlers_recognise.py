"""Boxes that are named by tasks and models of a user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from handler_kit import load, run

import vdag
from vdag import tasks
from vdag.errors import ConfigError, GraphError
from vdag.tasks import TaskOptions, base
from vdag.tasks.naming import name_of


@pytest.fixture
def staff() -> Iterator[None]:
    """A recogniser of a user's: it goes by how bright a picture is."""

    @vdag.task(outputs=["label", "prob"])
    def staff(image):
        bright = float(image.mean()) / 255
        return {"label": "day" if bright > 0.5 else "night", "prob": bright}

    yield
    base._registry.pop("staff", None)


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
