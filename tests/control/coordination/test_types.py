"""Handler types and their parameters: the documented ones, and what they may be."""

from __future__ import annotations

import json

import pytest

from vdag.control.coordination.types import HANDLER_TYPES, Param, check_params, with_defaults
from vdag.errors import ConfigError

#: As documented: inputs, outputs and defaults by number.
DOCUMENTED = {
    0: (1, 0, {"addr": "", "port": 0, "protocol": "udp"}),
    1: (0, 1, {"addr": "", "port": 0, "protocol": "udp"}),
    2: (0, 1, {"source": 0, "width": 640, "height": 480, "fps": 25}),
    3: (1, 0, {"fps": 0}),
    4: (1, 1, {"width": 640, "height": 480}),
    5: (1, 1, {"quality": 80}),
    6: (1, 1, {}),
    7: (
        1,
        1,
        {
            "gpu": True, "config": "yolov3-tiny-416.cfg", "weights": "yolov3-tiny.weights",
            "labels": "coco.names", "targets": ["all"], "thresh": 0.5, "hier_thresh": 0.5,
            "nms": 0.45,
        },
    ),
    8: (1, 1, {"scale_factor": 1.1, "min_size": 20}),
    9: (1, 1, {"upsample": 1}),
    10: (1, 1, {"model": "mmod_face_detector.dat", "upsample": 1, "tresh": 0.5}),
    11: (
        1,
        1,
        {
            "predictor": "shape_predictor_68_face_landmarks.dat",
            "indices": "OUTER_EYES_AND_NOSE", "dim": 96,
        },
    ),
    12: (1, 1, {"model": "default", "dim": 160, "margin": 32, "gpu_memory_frac": None}),
    13: (
        1,
        1,
        {
            "predictor": "shape_predictor_5_face_landmarks.dat",
            "model": "dlib_face_recognition_resnet_model_v1.dat",
            "classifier": "dlib_choke_g1.encodings", "dim": 96, "jitters": 1, "tresh": 0.6,
        },
    ),
    14: (
        1,
        1,
        {
            "model": "nn4.small2.v1.t7", "classifier": "nn4.small2.v1.g1.pkl", "dim": 96,
            "gpu": True, "tresh": 0.5,
        },
    ),
    15: (
        1,
        1,
        {
            "model": "20180402", "classifier": "20180402_choke_g1.pkl", "dim": 160,
            "gpu_memory_frac": None, "tresh": 0.5,
        },
    ),
    16: (2, 1, {}),
    17: (2, 1, {}),
}  # fmt: skip


def test_the_types_are_the_documented_ones():
    found = {
        number: (
            kind.inputs,
            kind.outputs,
            {name: param.default for name, param in kind.params.items() if not param.own},
        )
        for number, kind in HANDLER_TYPES.items()
    }
    finder = {"with_crop": True, "multiple": True}
    assert found == {
        number: (inputs, outputs, {**params, **finder} if 7 <= number <= 15 else params)
        for number, (inputs, outputs, params) in DOCUMENTED.items()
    }
    assert len({kind.name for kind in HANDLER_TYPES.values()}) == 18


@pytest.mark.parametrize("number", HANDLER_TYPES)
def test_defaults_are_what_their_types_allow(number):
    kind = HANDLER_TYPES[number]
    complete = with_defaults(kind, {})
    assert complete.keys() == kind.params.keys()
    assert check_params(kind, complete) == complete


@pytest.mark.parametrize(
    ("number", "params", "read"),
    [
        (2, {"source": "rtsp://192.0.2.7/1"}, {"source": "rtsp://192.0.2.7/1"}),
        (2, {"source": 1, "fps": 30}, {"source": 1, "fps": 30}),
        (12, {"gpu_memory_frac": 1}, {"gpu_memory_frac": 1.0}),
        (12, {"gpu_memory_frac": None}, {"gpu_memory_frac": None}),
        (
            7,
            {"targets": ["person", "car"], "gpu": False},
            {"targets": ["person", "car"], "gpu": False},
        ),
    ],
)
def test_parameters_are_read_as_their_types_have_them(number, params, read):
    found = check_params(HANDLER_TYPES[number], params)
    assert json.dumps(found) == json.dumps(read)  # 1 is 1.0, but not in a message


@pytest.mark.parametrize(
    ("number", "params", "error"),
    [
        (4, {"width": "640"}, "params.width is '640', expected int"),
        (4, {"width": True}, "params.width is True, expected int"),
        (4, {"width": 1e3}, "params.width is 1000.0, expected int"),
        (4, {"height": 100_000}, "params.height is 100000, expected 1 to 16384"),
        (5, {"quality": 101}, "params.quality is 101, expected 0 to 100"),
        (8, {"scale_factor": float("nan")}, "params.scale_factor is nan, expected 1.001 to 100"),
        (7, {"thresh": 10**400}, "params.thresh is inf, expected 0 to 1"),
        (7, {"targets": "person"}, "params.targets is 'person', expected list"),
        (7, {"targets": [1]}, "params.targets is [1], expected list"),
        (2, {"source": None}, "params.source is None, expected int or str"),
        (0, {"protocol": "tls"}, "params.protocol is 'tls', expected udp, tcp"),
        (
            11,
            {"indices": "NOSE"},
            "params.indices is 'NOSE', expected OUTER_EYES_AND_NOSE, INNER_EYES_AND_BOTTOM_LIP",
        ),
        (6, {"speed": 1}, "params.speed is not known to decode: it takes none"),
        (4, {"depth": 1}, "params.depth is not known to resize: it takes width, height"),
        (3, {"to": "x" * 5000}, f"params.to is '{'x' * 76}..., expected str"),
    ],
)
def test_parameters_without_meaning_are_named(number, params, error):
    with pytest.raises(ConfigError) as caught:
        check_params(HANDLER_TYPES[number], params)
    assert str(caught.value) == error


def test_a_list_is_the_readers_own():
    given = ["person"]
    read = Param("list", []).read(given)
    given.append("car")
    assert read == ["person"]
