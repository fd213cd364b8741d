from __future__ import annotations

import json

import numpy as np

from vdag.frame import Frame
from vdag.results import Result, to_json


def test_a_result_becomes_json_without_its_pictures():
    result = Result(
        stream="street",
        seq=3,
        cam_frame_id=6,
        pts_s=0.24,
        width=64,
        height=48,
        outputs={
            "face_detection": {
                "bbox": np.array([[1, 2, 3, 4]], np.float32),
                "prob": np.array([0.5], np.float32),
                "faces": [np.zeros((2, 2, 3), np.uint8)],
            },
            "face_alignment": {"count_result": {"up": np.int64(1), "total": 1}},
        },
    )
    line = json.loads(json.dumps(result.to_dict()))
    assert line["frame_id"] == 6.0
    assert line["outputs"] == {
        "face_detection": {"bbox": [[1.0, 2.0, 3.0, 4.0]], "prob": [0.5]},
        "face_alignment": {"count_result": {"up": 1, "total": 1}},
    }
    assert "faces" in result.to_dict(pictures=True)["outputs"]["face_detection"]


def test_numbers_that_json_cannot_hold_become_null():
    assert to_json({"a": np.array([1.0, np.nan, np.inf])}) == {"a": [1.0, None, None]}


def test_dropping_the_frame_releases_it():
    class Lease:
        released = False

        def release(self):
            self.released = True

    lease = Lease()
    frame = Frame(np.zeros((2, 2, 3), np.uint8), lease=lease)
    result = Result("s", 0, 0, None, 2, 2, {}, frame=frame)
    result.drop_frame()
    result.drop_frame()
    assert lease.released
    assert result.frame is None
