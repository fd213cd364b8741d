"""The service that users write today: Flask's own server with threads, OpenCV, ONNX Runtime.

    python service_flask.py

It says its port on standard output and serves until standard input ends. Each path is what one
benchmark holds against a path of vdag's:

    /nothing              JSON in and out
    /faces                the reference's hop: JSON with the text of a bytes literal, which is
                          evaluated (`ast.literal_eval` takes as long as `eval`), `cv2.imdecode`,
                          and the crops of the reply as texts again
    /detect/<model>       a JPEG as the body, decoded and given to one `InferenceSession` with its
                          default settings, which all threads share, as its documentation permits
    /detect_tuned/<model> the same with one thread per call, which does not spin

The models and what they find are the same as vdag's.
"""

from __future__ import annotations

import ast
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import cv2
import flask
import numpy as np
import onnxruntime as ort
from service_tasks import BOXES
from werkzeug.serving import make_server

from vdag.engines import zoo

JPEG_QUALITY = 95
Boxes = tuple[np.ndarray, np.ndarray]
#: Tensor sizes of a picture of 1280 x 720, as vdag's cards have them.
SIZES = {"centerface": (640, 384), "blazeface": (256, 256)}


def find_centerface(picture: np.ndarray, run: Callable[..., Any]) -> Boxes:
    """Return boxes as x, y, width, height and scores, of pixels of the picture."""
    wide, high = SIZES["centerface"]
    blob = cv2.dnn.blobFromImage(picture, 1.0, (wide, high), swapRB=True)
    heat, size, offset = run(["heat", "size", "offset"], {"images": blob})
    y, x = np.nonzero(heat[0, 0] > 0.5)
    height, width = np.exp(size[0, 0, y, x]) * 4, np.exp(size[0, 1, y, x]) * 4
    left = (x + offset[0, 1, y, x] + 0.5) * 4 - width / 2
    top = (y + offset[0, 0, y, x] + 0.5) * 4 - height / 2
    ratio = np.array([picture.shape[1] / wide, picture.shape[0] / high] * 2)
    return np.stack([left, top, width, height], axis=1) * ratio, heat[0, 0, y, x]


def find_blazeface(picture: np.ndarray, run: Callable[..., Any]) -> Boxes:
    """Do likewise; the picture is letterboxed."""
    side = SIZES["blazeface"][0]
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    small = cv2.resize(picture, (round(width * scale), round(height * scale)))
    left, top = (side - small.shape[1]) // 2, (side - small.shape[0]) // 2
    whole = np.full((side, side, 3), 114, np.uint8)
    whole[top : top + small.shape[0], left : left + small.shape[1]] = small
    blob = cv2.dnn.blobFromImage(whole, 1 / 127.5, mean=(127.5,) * 3, swapRB=True)
    score, boxes = run(["score", "boxes"], {"images": blob})
    kept = score[0] > 0.5
    x, y, wide, high = boxes[0, kept, :4].T
    found = np.stack([x - wide / 2 - left, y - high / 2 - top, wide, high], axis=1)
    return found / scale, score[0, kept]


FINDERS = {"centerface": find_centerface, "blazeface": find_blazeface}


def encode(crop: np.ndarray) -> str:
    """Return the text of a picture, as the documents' clients and services write it."""
    jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return str(jpeg.tobytes())


def crop_square(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the square around a box, half as large again, cut off at the border."""
    x, y, wide, high = (float(value) for value in box)
    half, row, column = 0.75 * max(wide, high), y + high / 2, x + wide / 2
    top, left = max(round(row - half), 0), max(round(column - half), 0)
    return picture[
        top : max(round(row + half), top + 1), left : max(round(column + half), left + 1)
    ]


def describe(
    picture: np.ndarray, boxes: np.ndarray, scores: np.ndarray, *, has_faces: bool
) -> dict[str, Any]:
    """Return the reply."""
    kept = list(cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0.5, 0.3))
    corners = np.hstack([boxes[kept, :2], boxes[kept, :2] + boxes[kept, 2:]])
    reply = {"bbox": corners.tolist(), "prob": scores[kept].tolist()}
    if has_faces:
        reply["faces"] = [encode(crop_square(picture, box)) for box in boxes[kept]]
    return reply


def load(name: str, *, is_tuned: bool) -> ort.InferenceSession:
    """Load a model."""
    options = ort.SessionOptions()
    if is_tuned:
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(zoo.card(name).path, options)


def application() -> flask.Flask:
    """Return the service."""
    app = flask.Flask("users")
    sessions = {
        (name, kind): load(name, is_tuned=kind == "detect_tuned")
        for name in FINDERS
        for kind in ("detect", "detect_tuned")
    }

    @app.post("/nothing")
    def nothing() -> dict[str, Any]:
        return {"seen": flask.request.get_json()["number"]}

    @app.post("/faces")
    def faces() -> dict[str, Any]:
        data = ast.literal_eval(flask.request.get_json()["image"])
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        crops = [picture[int(y1) : int(y2), int(x1) : int(x2)] for x1, y1, x2, y2 in BOXES]
        return {
            "bbox": BOXES.tolist(),
            "prob": [0.9] * len(BOXES),
            "faces": [encode(crop) for crop in crops],
        }

    @app.post("/<kind>/<model>")
    def detect(kind: str, model: str) -> dict[str, Any]:
        data = np.frombuffer(flask.request.get_data(), np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        boxes, scores = FINDERS[model](picture, sessions[model, kind].run)
        has_faces = flask.request.args.get("pictures") != "none"
        return describe(picture, boxes, scores, has_faces=has_faces)

    return app


def main() -> None:
    """Be the server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # What `app.run` makes, whose port can be asked for.
    server = make_server("127.0.0.1", 0, application(), threaded=True)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
