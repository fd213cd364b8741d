from __future__ import annotations

import numpy as np
import pytest

from vdag.tasks.headpose import eye_angle, head_pose, square_crop, to_frame

POINTS = {10: (0, -90, 0), 152: (0, 90, 0), 234: (-70, 0, 20), 454: (70, 0, 20)}


def turned(yaw=0.0, pitch=0.0, roll=0.0):
    """A mesh whose four points that matter show a head turned by these degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    # x right, y down, z away: a positive yaw moves the nose, at minus z, to the right.
    about_y = [[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]]
    about_x = [[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]]
    about_z = [[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]]
    turn = np.array(about_z) @ np.array(about_y) @ np.array(about_x)
    mesh = np.zeros((1, 468, 3))
    for index, point in POINTS.items():
        mesh[0, index] = turn @ np.array(point)
    return mesh.astype(np.float32)


@pytest.mark.parametrize("angle", [-60, -20, 0, 20, 60])
@pytest.mark.parametrize("axis", ["yaw", "pitch", "roll"])
def test_a_head_turned_about_one_axis_shows_that_angle_alone(axis, angle):
    expected = {"yaw": 0, "pitch": 0, "roll": 0, axis: angle}
    assert head_pose(turned(**{axis: angle}))[0] == pytest.approx(list(expected.values()), abs=1e-3)


def test_a_mesh_without_extent_has_no_pose():
    assert np.isnan(head_pose(np.zeros((1, 468, 3), np.float32))).all()


@pytest.mark.parametrize("angle", [-0.7, 0.0, 0.4])
def test_a_crop_centres_the_face_turns_it_upright_and_maps_back(angle):
    bbox = np.array([100, 50, 180, 170], np.float32)
    crop = square_crop(bbox, 192, angle)
    centre = crop @ np.array([140, 110, 1])
    assert centre == pytest.approx([96, 96], abs=1e-3)
    along_eyes = crop[:, :2] @ np.array([np.cos(angle), np.sin(angle)])
    assert along_eyes[1] == pytest.approx(0, abs=1e-5)
    assert along_eyes[0] == pytest.approx(192 / 180, rel=1e-5)
    mesh = np.random.default_rng(1).uniform(0, 192, (468, 3)).astype(np.float32)
    back = to_frame(mesh, crop)
    assert back[:, :2] @ crop[:, :2].T + crop[:, 2] == pytest.approx(mesh[:, :2], abs=1e-2)
    assert back[:, 2] * (192 / 180) == pytest.approx(mesh[:, 2], rel=1e-4)


def test_the_eye_angle_grows_clockwise():
    left, right = np.array([0, 0], np.float32), np.array([10, 10], np.float32)
    assert eye_angle(left, right) == pytest.approx(np.pi / 4)
    assert eye_angle(left, left) == 0.0
