"""The zoo: its cards, its weights, and what a card of a user's own is told when it is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from vdag.engines import zoo
from vdag.errors import ConfigError, ModelError

NAMES = ("blazeface", "centerface", "facemesh", "helmet", "nanodet")
PERMISSIVE = {"MIT", "Apache-2.0", "BSD-3-Clause"}

GOOD = """
name = "yard"
version = "3"
file = "yard.onnx"

[input]
name = "images"
colour = "RGB"
resize = "letterbox"
std = [255.0, 255.0, 255.0]

[decode]
kind = "yolo"
layout = "v8"
classes = ["helmet", "bare"]
"""


def open_session(model: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def pictures(card: zoo.Card, batch: int, side: int) -> dict[str, np.ndarray[Any, Any]]:
    height, width = card.input.size if card.input.size != (0, 0) else (side, side + 64)
    pixels = np.random.default_rng(side).integers(0, 256, (batch, 3, height, width))
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (card.input.mean, card.input.std))
    return {card.input.name: ((pixels - mean) / std).astype(np.float32)}


def write(folder: Path, text: str) -> Path:
    path = folder / "yard.toml"
    path.write_text(text)
    return path


def test_the_zoo_has_exactly_the_models_it_says() -> None:
    assert tuple(zoo.cards()) == NAMES


def test_a_changed_dictionary_of_cards_does_not_change_the_zoo() -> None:
    zoo.cards().clear()
    assert zoo.card("nanodet").name == "nanodet"


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_what_their_card_says(name: str) -> None:
    card = zoo.card(name)
    assert card.nbytes == card.path.stat().st_size
    assert len(card.sha256) == 64
    card.verify()


@pytest.mark.parametrize("name", NAMES)
def test_a_card_of_the_zoo_leaves_nothing_out(name: str) -> None:
    card = zoo.card(name)
    assert card.licence.spdx in PERMISSIVE
    assert card.licence.upstream
    assert all(len(source.sha256) == 64 for source in card.sources)
    assert card.sources
    assert card.summary
    assert card.quality.measured
    assert card.cost
    for service in card.tasks:
        assert card.profile(service.max_side).max_side == service.max_side


@pytest.mark.parametrize("name", NAMES)
def test_the_card_names_the_tensors_of_the_model(name: str) -> None:
    card = zoo.card(name)
    session = open_session(str(card.path))
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type) == (card.input.name, "tensor(float)")
    types = {"float32": "tensor(float)", "int32": "tensor(int32)"}
    given = [(item.name, item.type, len(item.shape)) for item in session.get_outputs()]
    assert given == [(item.name, types[item.dtype], len(item.shape)) for item in card.outputs]


@pytest.mark.parametrize("side", [128, 192])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_each_picture_what_it_gets_alone(name: str, side: int) -> None:
    card = zoo.card(name)
    session = open_session(str(card.path))
    inputs = pictures(card, 3, side)
    together = session.run(None, inputs)
    for index in range(3):
        alone = session.run(None, {card.input.name: inputs[card.input.name][index : index + 1]})
        for one, all_three in zip(alone, together, strict=True):
            assert np.isfinite(one).all()
            np.testing.assert_allclose(one[0], all_three[index], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", [128, 192])
def test_maps_follow_the_size_of_the_picture(side: int) -> None:
    card = zoo.card("centerface")
    heat, *_ = open_session(str(card.path)).run(None, pictures(card, 1, side))
    assert heat.shape == (1, 1, side // 4, (side + 64) // 4)


def test_nanodet_hands_over_cells_that_exist_best_first() -> None:
    card = zoo.card("nanodet")
    score, label, cell, distance = open_session(str(card.path)).run(None, pictures(card, 1, 128))
    cells = sum((128 // stride) * (192 // stride) for stride in (8, 16, 32))
    assert (np.diff(score[0]) <= 0).all()
    assert len(set(cell[0].tolist())) == cell.shape[1] == 256
    assert (cell.min() >= 0, cell.max() < cells) == (True, True)
    assert (label.min() >= 0, label.max() < len(card.decode.classes)) == (True, True)
    assert (distance.min() >= 0, distance.max() <= 10) == (True, True)


def test_an_unknown_model_is_told_the_known_ones() -> None:
    message = "the zoo has no model 'yolo', only blazeface, centerface, facemesh, helmet, nanodet"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        zoo.card("yolo")


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("face_detection", [("centerface", 1280), ("centerface", 640), ("blazeface", 256)]),
        ("face_alignment", [("facemesh", 192)]),
        ("car_detection", [("nanodet", 960), ("nanodet", 640), ("nanodet", 320)]),
        ("helmet_detection", [("helmet", 224)]),
    ],
)
def test_a_task_has_its_models_largest_first(task: str, expected: list[tuple[str, int]]) -> None:
    models = zoo.models_for(task)
    assert [(item.card.name, item.max_side) for item in models.values()] == expected
    assert [(key, item.model_id) for key, item in models.items()] == [
        (index, index) for index in range(len(expected))
    ]


def test_an_unknown_task_is_told_the_known_ones() -> None:
    message = (
        "the zoo has no model for task 'cats', only for "
        "car_detection, face_alignment, face_detection, helmet_detection"
    )
    with pytest.raises(ConfigError, match=f"^{message}$"):
        zoo.models_for("cats")


@pytest.mark.parametrize(
    ("name", "picture", "max_side", "tensor"),
    [
        ("centerface", (176, 144), 1280, (192, 160)),  # never enlarged beyond the next multiple
        ("centerface", (1920, 1080), 1280, (1280, 736)),
        ("nanodet", (640, 272), 640, (640, 288)),
        ("nanodet", (640, 272), 320, (320, 160)),
        ("nanodet", (1920, 120), 960, (960, 128)),  # as high as 256 cells need
        ("nanodet", (1, 4000), 960, (128, 960)),
        ("facemesh", (640, 272), 192, (192, 192)),
    ],
)
def test_a_tensor_fits_its_picture(
    name: str, picture: tuple[int, int], max_side: int, tensor: tuple[int, int]
) -> None:
    assert zoo.card(name).input.tensor_size(*picture, max_side) == tensor


def test_a_choice_limits_the_tensor() -> None:
    sizes = [item.tensor_size(1920, 1080) for item in zoo.models_for("car_detection").values()]
    assert sizes == [(960, 544), (640, 384), (320, 192)]


def test_a_missing_profile_names_those_there_are() -> None:
    message = "model nanodet has no profile of side 416, only 960, 640, 320"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        zoo.card("nanodet").profile(416)


def test_crops_are_squares_around_the_face() -> None:
    face, head = zoo.card("facemesh").crop, zoo.card("helmet").crop
    assert face is not None
    assert head is not None
    assert face.square(10, 20, 30, 60) == (-10.0, 10.0, 60.0)
    assert head.square(10, 20, 30, 60) == (-18.0, -10.0, 76.0)


def test_a_users_card_needs_little(tmp_path: Path) -> None:
    card = zoo.load_card(write(tmp_path, GOOD))
    assert card.path == tmp_path.resolve() / "yard.onnx"
    assert card.decode.classes == ("helmet", "bare")
    assert (card.decode.threshold, card.decode.iou, card.input.pad) == (0.25, 0.45, 114)
    with pytest.raises(ModelError, match=r"^model yard.onnx cannot be read: No such file"):
        card.verify()
    card.path.write_bytes(b"anything")
    card.verify()


def test_a_changed_file_is_not_the_cards_model(tmp_path: Path) -> None:
    (tmp_path / "yard.onnx").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    wrong = "0" * 64
    zoo.load_card(write(tmp_path, f'sha256 = "{digest}"\nnbytes = 3\n{GOOD}')).verify()
    card = zoo.load_card(write(tmp_path, f"nbytes = 4\n{GOOD}"))
    with pytest.raises(ModelError, match=r"^model yard\.onnx has 3 bytes, its card says 4$"):
        card.verify()
    card = zoo.load_card(write(tmp_path, f'sha256 = "{wrong}"\n{GOOD}'))
    message = f"model yard.onnx has sha256 {digest}, its card says {wrong}"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        card.verify()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('resize = "letterbox"', 'resize = "letterbox"\nlayout = "NHWC"',
         "input.layout is 'NHWC', expected one of NCHW"),
        ('resize = "letterbox"', 'resize = "crop"',
         "input.resize is 'crop', expected one of letterbox, stretch"),
        ('colour = "RGB"', 'colour = "rgb"', "input.colour is 'rgb', expected one of RGB, BGR"),
        ('colour = "RGB"\n', "", "input: object missing required field colour"),
        ('version = "3"', "version = 3", "version: expected str, got int"),
        ('version = "3"', 'vversion = "3"', "object contains unknown field vversion"),
        ('version = "3"', 'version = "3"\nfolder = "/"',
         "folder is set by the loader, remove it"),
        ('"yard.onnx"', '"../yard.onnx"',
         "file is '../yard.onnx', expected a name without folders"),
        ('version = "3"', 'version = "3"\nsha256 = "ab"',
         "sha256 is 'ab', expected 64 hexadecimal digits"),
        ("255.0]", "0.0]", "input.std is [255.0, 255.0, 0.0], expected no zero"),
        (", 255.0]", "]", "input.std: expected array of length 3, got 2"),
        ('name = "images"', 'name = ""', "input.name is empty"),
        ('name = "images"', 'name = "images"\npad = 256', "input.pad is 256, expected 0 to 255"),
        ('name = "images"', 'name = "images"\nmultiple = 0',
         "input.multiple is 0, expected 1 to 8192"),
        ('name = "images"', 'name = "images"\nsize = [640, 0]',
         "input.size is [640, 0], expected height and width of 1 to 8192"),
        ('kind = "yolo"', 'kind = "ssd"',
         "decode.kind is 'ssd', expected one of "
         "binary, blazeface, centerface, classes, facemesh, nanodet, yolo"),
        ('layout = "v8"', 'layout = "v9"',
         "decode.layout is 'v9', expected one of nothing, v5, v8"),
        ('layout = "v8"\n', "", "decode.layout is missing, expected one of v5, v8"),
        ('layout = "v8"', 'layout = "v8"\nthreshold = 1.5',
         "decode.threshold is 1.5, expected 0 to 1"),
        ('layout = "v8"', 'layout = "v8"\niou = -1.0', "decode.iou is -1.0, expected 0 to 1"),
        ('"bare"', '"helmet"', "decode.classes has a name twice"),
        ('["helmet", "bare"]', "[]",
         "decode.classes is empty, expected the names of the model's classes"),
        ('version = "3"', 'version = "3"\ntasks = [{task = "x", model_id = 0, max_side = 9000}]',
         "tasks.max_side is 9000, expected 32 to 8192"),
        ('version = "3"', 'version = "3"\ntasks = [{task = "x", model_id = -1, max_side = 640}]',
         "tasks.model_id is -1, expected 0 or more"),
        ('version = "3"', 'version = "3"\nprofiles = [{max_side = 640, batch = [1, 4, 2], '
         "height = [32, 64, 96], width = [32, 64, 96]}]",
         "profiles.batch is [1, 4, 2], expected three rising sizes"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_value(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(ConfigError) as caught:
        zoo.load_card(write(tmp_path, GOOD.replace(old, new, 1)))
    assert str(caught.value) == f"card yard.toml: {message}"


def test_a_missing_card_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^card yard.toml cannot be read: No such file"):
        zoo.load_card(tmp_path / "yard.toml")


@pytest.mark.parametrize("text", [b"name = ", b"\xff\xfe"])
def test_what_is_not_toml_is_a_config_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "yard.toml").write_bytes(text)
    with pytest.raises(ConfigError, match=r"^card yard\.toml is not TOML: "):
        zoo.load_card(tmp_path / "yard.toml")


def test_a_card_of_more_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "#" * (1 << 20))
    with pytest.raises(ConfigError, match=r"^card yard\.toml exceeds 1048576 bytes$"):
        zoo.load_card(path)
