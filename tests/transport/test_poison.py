"""The store of frames that workers died over."""

from __future__ import annotations

import re

import numpy as np
import pytest

from vdag._native import header as native_header
from vdag.errors import ConfigError, FrameFormatError
from vdag.transport import codec
from vdag.transport.poison import PoisonStore

ROUTE = (codec.Hop("crc", "ipc:///x"), codec.Hop("home", "ipc:///x"))


def part(seq: int, shape: tuple[int, ...] = (2, 3)) -> bytes:
    nbytes = int(np.prod(shape))
    header = native_header.Header(
        kind=native_header.KIND_SLOT, dtype=1, shape=shape, payload_nbytes=nbytes, seq=seq
    )
    context = {"before": {"bbox": np.ones((1, 4), np.float32)}}
    return codec.encode(codec.Descriptor(header, "job", "camera", ROUTE, context))[0]


def test_a_frame_is_read_back_as_it_was_kept(tmp_path):
    store = PoisonStore(tmp_path / "poison")
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    folder = store.keep(part(7), pixels, "killed by SIGKILL")
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}-0-7-0", folder.name)
    assert store.folder.stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o700
    kept = store.load(folder)
    assert kept.pixels is not None
    np.testing.assert_array_equal(kept.pixels, pixels)
    assert kept.descriptor.here == ROUTE[0]
    assert kept.descriptor.context["before"]["bbox"].tolist() == [[1.0] * 4]
    assert kept.report.endswith("\nkilled by SIGKILL\n")


def test_a_frame_without_pixels_is_kept_too(tmp_path):
    store = PoisonStore(tmp_path)
    assert store.load(store.keep(part(0), None, "")).pixels is None


def test_the_newest_frames_stay(tmp_path):
    store = PoisonStore(tmp_path / "poison", limit=2)
    assert store.frames() == []
    folders = [store.keep(part(seq), None, "") for seq in range(4)]
    assert store.frames() == folders[2:]


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    store = PoisonStore(tmp_path)

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        store.keep(part(0), np.zeros((2, 3), np.uint8), "")
    assert list(tmp_path.iterdir()) == []


def test_pixels_that_do_not_belong_to_the_descriptor_are_refused(tmp_path):
    store = PoisonStore(tmp_path)
    folder = store.keep(part(0), np.zeros((2, 4), np.uint8), "")
    with pytest.raises(FrameFormatError, match=r"^pixels of shape \(2, 4\) are not \(2, 3\)$"):
        store.load(folder)
    (folder / "pixels.npy").write_bytes(b"\x80\x04.")  # a pickle
    with pytest.raises(FrameFormatError, match=re.escape(str(folder / "pixels.npy"))):
        store.load(folder)


def test_a_store_keeps_at_least_one_frame(tmp_path):
    with pytest.raises(ConfigError, match=r"^limit of 0 poisoned frames is less than 1$"):
        PoisonStore(tmp_path, limit=0)
