"""Frames of the real clips, decoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vdag import open_source

Pictures = list[NDArray[np.uint8]]


def read(path: Path) -> Pictures:
    with open_source(path) as source:
        return [frame.pixels for frame in source]


@pytest.fixture(scope="session")
def carphone_frames(clips: Path) -> Pictures:
    return read(clips / "carphone_pristine.mp4")


@pytest.fixture(scope="session")
def bikes_frames(clips: Path) -> Pictures:
    return read(clips / "bikes.mp4")


@pytest.fixture
def face(carphone_frames: Pictures) -> NDArray[np.uint8]:
    return carphone_frames[0]


@pytest.fixture
def street(bikes_frames: Pictures) -> NDArray[np.uint8]:
    return bikes_frames[140]
