"""Head pose from a face mesh: geometry only, no model.

The mesh has its own depth, so three of its directions span the head's axes and no camera is
needed. Point numbers are those of MediaPipe's canonical face mesh of 468 points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["UP_PITCH_DEGREES", "eye_angle", "head_pose", "square_crop", "to_frame"]

FOREHEAD, CHIN = 10, 152
LEFT_CHEEK, RIGHT_CHEEK = 234, 454
LEFT_EYE, RIGHT_EYE = 33, 263
#: A head whose pitch is above this counts as up, as in the reference of the documents.
UP_PITCH_DEGREES = -10.0
#: Side of the crop over the larger side of the face box, as the mesh model was trained.
MARGIN = 1.5


def head_pose(mesh: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return yaw, pitch and roll of each mesh in degrees.

    With x towards the image's right, y down and z away from the camera: the face looks along
    minus z of the head, whose axes come from chin minus forehead and right minus left cheek.

    Args:
        mesh: `(N, 468, 3)` in pixels of an upright picture, z on the scale of x.

    Returns:
        `(N, 3)`: yaw above 0 looks to the image's right, pitch above 0 up, roll above 0 is
        clockwise. Not a number where the mesh has no extent.
    """
    down = _unit(mesh[:, CHIN] - mesh[:, FOREHEAD])
    right = _unit(mesh[:, RIGHT_CHEEK] - mesh[:, LEFT_CHEEK])
    away = _unit(np.cross(right, down))
    right = np.cross(down, away)
    look = -away
    yaw = np.arctan2(look[:, 0], -look[:, 2])
    pitch = np.arctan2(-look[:, 1], np.hypot(look[:, 0], look[:, 2]))
    roll = np.arctan2(right[:, 1], right[:, 0])
    pose: NDArray[np.float32] = np.degrees(np.stack([yaw, pitch, roll], axis=1)).astype(np.float32)
    return pose


def eye_angle(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Return by how much the line from the image's left to its right eye is turned, in radians."""
    dx, dy = (float(value) for value in right[:2] - left[:2])
    return float(np.arctan2(dy, dx)) if (dx or dy) else 0.0


def square_crop(bbox: NDArray[np.float32], size: int, angle: float) -> NDArray[np.float32]:
    """Return the affine map from the frame to a crop that shows the face upright.

    Args:
        bbox: x1, y1, x2, y2 of the face in pixels of the frame.
        size: side of the crop in pixels.
        angle: how far the face is turned, in radians; the crop turns it back.

    Returns:
        float32 `(2, 3)`, as `cv2.warpAffine` takes it.
    """
    x1, y1, x2, y2 = (float(value) for value in bbox)
    scale = size / max(MARGIN * max(x2 - x1, y2 - y1), 1.0)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    offset = size / 2 - linear @ np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    return np.column_stack([linear, offset]).astype(np.float32)


def to_frame(mesh: NDArray[np.float32], crop: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map a mesh `(468, 3)` from a crop back to the frame; z is scaled like x and y."""
    linear = crop[:, :2].astype(np.float64)
    back = np.linalg.inv(linear)
    xy = (mesh[:, :2] - crop[:, 2]) @ back.T
    depth = mesh[:, 2:] * np.sqrt(abs(np.linalg.det(back)))
    return np.concatenate([xy, depth], axis=1).astype(np.float32)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
