"""JPEGs decoded on a GPU: the real library where there is one, else a stand-in with its calls."""

from __future__ import annotations

import ctypes
import gc
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import gpu_kit
import numpy as np
import pytest

from vdag import _native as native
from vdag.engines import zoo
from vdag.engines.gpu.device import open_device
from vdag.engines.gpu.engine import LaneEngine
from vdag.engines.gpu.jpeg import MAX_BATCH, JpegDecoder
from vdag.engines.gpu.lanes import Lanes
from vdag.engines.gpu.nvjpeg import Images, Library, find_library
from vdag.engines.gpu.pictures import DevicePicture, Preparation
from vdag.errors import ConfigError, EngineError, EngineUnavailable, ImageError

pytestmark = pytest.mark.slow  # as a whole

CARD = zoo.card("blazeface")
PREPARATION = Preparation("images", (256, 256), native.Normalization(), "letterbox")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The stand-in, compiled."""
    source = Path(gpu_kit.__file__).with_name("nvjpeg_stand_in.c")
    path = tmp_path_factory.mktemp("nvjpeg") / "libnvjpeg.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "a C compiler is needed"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-Wall", "-o", path, source], check=True)
    return str(path)


@pytest.fixture
def decoder(library: str, host: gpu_kit.HostDevice) -> Iterator[JpegDecoder]:
    live = ctypes.c_int.in_dll(ctypes.CDLL(library), "live")
    with JpegDecoder(host, library=library) as opened:
        yield opened
        gc.collect()
    assert live.value == 0
    assert host.allocated == {}


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(pixels: np.ndarray, *, width: int | None = None, components: int = 3) -> bytes:
    height, real = pixels.shape[:2]
    return b"FAKE" + struct.pack("<3i", width or real, height, components) + pixels.tobytes()


def pixels_of(found: DevicePicture) -> np.ndarray:
    raw = (ctypes.c_uint8 * (found.stride * found.height)).from_address(found.address)
    rows = np.frombuffer(raw, np.uint8).reshape(found.height, found.stride)
    return rows[:, : found.width * 3].reshape(found.height, found.width, 3).copy()


def test_a_batch_of_several_sizes_arrives_as_it_was_and_in_order(decoder):
    for count in (3, 3, 1, 5):
        sent = [picture(40 + 7 * seed, 30 + seed, seed) for seed in range(count)]
        found = decoder.decode([file_of(pixels) for pixels in sent])
        for one, pixels in zip(found, sent, strict=True):
            assert (one.width, one.height) == (pixels.shape[1], pixels.shape[0])
            assert one.stride % 256 == 0
            np.testing.assert_array_equal(pixels_of(one), pixels)
        del one, found


def test_memory_is_not_used_again_while_a_picture_of_it_is_held(decoder, host):
    first = decoder.decode([file_of(picture(64, 64, 1)), file_of(picture(64, 64, 2))])
    kept = first.pop()
    del first
    decoder.decode([file_of(picture(64, 64, 3))])
    np.testing.assert_array_equal(pixels_of(kept), picture(64, 64, 2))
    del kept
    gc.collect()
    taken = len(host.allocated)
    for _ in range(5):
        decoder.decode([file_of(picture(64, 64, 4))])
    assert len(host.allocated) == taken


def test_an_engine_takes_decoded_pictures_among_others(decoder, host):
    sent = [picture(120, 90, seed) for seed in range(3)]
    with LaneEngine("b", Lanes(host, lambda stream: gpu_kit.HostCompute(CARD.path))) as engine:
        expected, where = engine.infer_pictures(sent, PREPARATION)
        first, last = decoder.decode([file_of(sent[0]), file_of(sent[2])])
        host.uploads.clear()
        found, placements = engine.infer_pictures([first, sent[1], last], PREPARATION)
        assert placements == where
        # What goes up is one picture, and the table of all three.
        assert [nbytes for _, nbytes in host.uploads] == [sent[1].nbytes, 120]
        del first, last
        gc.collect()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"", "files[1]: header: bad JPEG"),
        (b"FAKE and no more than that", "files[1]: "),
        (file_of(picture(4, 4), components=4), "files[1]: 4 components are not gray or colour"),
        (file_of(picture(4, 4), width=70_000), "files[1]: 70000 x 4 pixels exceed side 65500"),
        (file_of(picture(4, 4), width=60_000), "files[1]: decoding: incomplete bitstream"),
        (file_of(picture(6666, 1)), "files[1]: decoding: incomplete bitstream"),
    ],
)
def test_a_bad_file_is_named_and_the_next_batch_is_fine(decoder, bad, problem):
    good = file_of(picture(8, 8))
    with pytest.raises(ImageError) as caught:
        decoder.decode([good, bad, good])
    assert str(caught.value).startswith(problem)
    (found,) = decoder.decode([good])
    np.testing.assert_array_equal(pixels_of(found), picture(8, 8))
    del found


def test_what_the_gpu_s_own_decoders_refuse_goes_the_other_way(library, host):
    flags = ctypes.CDLL(library)
    has, count = (ctypes.c_int.in_dll(flags, name) for name in ("has_hardware", "by_hardware"))
    has.value, count.value = 1, 0
    try:
        with JpegDecoder(host, library=library) as both:
            assert both.hardware
            for height, by_hardware in ((8, 1), (9, 1), (8, 2)):
                (found,) = both.decode([file_of(picture(8, height))])
                np.testing.assert_array_equal(pixels_of(found), picture(8, height))
                assert count.value == by_hardware
                del found
            with pytest.raises(ImageError, match=r"files\[1\]: decoding: incomplete bitstream"):
                both.decode([file_of(picture(8, 8)), file_of(picture(6666, 2))])
        with (
            JpegDecoder(host, library=library, hardware=True) as only,
            pytest.raises(ImageError, match=r"files\[0\]: decoding: JPEG not supported"),
        ):
            only.decode([file_of(picture(8, 9))])
        count.value = 0
        with JpegDecoder(host, library=library, hardware=False) as other:
            assert not other.hardware
            other.decode([file_of(picture(8, 8))])
            assert count.value == 0
    finally:
        has.value = 0
    gc.collect()
    assert host.allocated == {}


def test_a_picture_beyond_the_limit_takes_no_memory(library, host):
    with JpegDecoder(host, library=library, max_pixels=63) as decoder:
        with pytest.raises(ImageError, match=r"files\[0\]: 8 x 8 pixels exceed max_pixels 63"):
            decoder.decode([file_of(picture(8, 8))])
        assert host.allocated == {}


def test_a_failed_device_is_no_fault_of_a_picture(decoder):
    with pytest.raises(EngineError, match="nvJPEG, decoding: execution failed"):
        decoder.decode([file_of(picture(7777, 1))])


def test_what_has_no_meaning_is_refused(decoder, library, host):
    with pytest.raises(ConfigError, match=f"batch of 0 files is not 1 to {MAX_BATCH}"):
        decoder.decode([])
    with pytest.raises(ConfigError, match=r"threads of 0 is outside 1\.\.64"):
        JpegDecoder(host, library=library, threads=0)
    with pytest.raises(ConfigError, match="max_pixels of 0 is less than 1"):
        JpegDecoder(host, library=library, max_pixels=0)
    with pytest.raises(EngineUnavailable, match="nvJPEG in hardware cannot be used here: device"):
        JpegDecoder(host, library=library, hardware=True)
    with pytest.raises(EngineUnavailable, match="nvJPEG does not load: "):
        JpegDecoder(host, library="/nowhere/libnvjpeg.so")


def test_a_closed_decoder_says_so_and_pictures_outlive_it(library, host):
    decoder = JpegDecoder(host, library=library)
    (found,) = decoder.decode([file_of(picture(8, 8))])
    decoder.close()
    decoder.close()
    np.testing.assert_array_equal(pixels_of(found), picture(8, 8))
    with pytest.raises(EngineError, match="the decoder is closed"):
        decoder.decode([file_of(picture(8, 8))])
    del found
    gc.collect()
    assert host.allocated == {}


def test_an_array_for_the_library_is_what_its_header_says():
    images = Images([(1, 2), (3, 4)], [(5, 6), (7, 8)])
    assert bytes(images.images) == struct.pack(
        "<16Q", *(5, 0, 0, 0, 6, *[0] * 3, 7, *[0] * 3, 8, *[0] * 3)
    )
    assert list(images.lengths) == [2, 4]


@pytest.mark.gpu
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "gray"])
@pytest.mark.parametrize("hardware", [None, False])
@pytest.mark.parametrize("index", [0, 1])
def test_the_gpu_decodes_what_the_cpu_decodes(subsampling: str, hardware: bool | None, index: int):
    try:
        device, path = open_device(index), find_library()
    except EngineUnavailable as err:
        pytest.skip(str(err))
    assert Library(path)
    rows, columns = np.mgrid[0:360, 0:642]
    smooth = np.stack([rows % 256, columns % 256, (rows + columns) // 4 % 256], -1).astype(np.uint8)
    file = native.jpeg.encode(smooth, quality=92, subsampling=subsampling)
    expected = native.jpeg.decode(file)
    with JpegDecoder(device, hardware=hardware) as decoder, device.active():
        (found,) = decoder.decode([file])
        back = np.empty(found.stride * found.height, np.uint8)
        stream = device.stream()
        stream.wait_for_event(found.ready)
        device.download(back, found.address, stream)
        stream.synchronize()
        rows_of = back.reshape(found.height, found.stride)[:, : found.width * 3]
        off = np.abs(rows_of.reshape(expected.shape).astype(int) - expected)
        del found
    assert off.mean() < 1
