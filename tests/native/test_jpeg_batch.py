"""Batches on several threads, handles, and how libturbojpeg is found."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest

from vdag._native import jpeg_terms, reference_jpeg
from vdag.errors import DependencyMissing, ImageError, NativeUnavailable

compiled = importlib.import_module("vdag._native.jpeg")
needs_library = pytest.mark.skipif(not compiled.available(), reason="there is no libturbojpeg")


def pictures(n: int) -> list[np.ndarray]:
    """Of sizes that all differ, so that a mix-up shows."""
    random = np.random.default_rng(n)
    return [random.integers(0, 256, (9 + 2 * i, 60 - i, 3), np.uint8) for i in range(n)]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("threads", [1, 2, 5, 64])
def test_a_batch_gives_what_single_calls_give_in_order(codec: ModuleType, threads: int) -> None:
    images = pictures(20)
    datas = [codec.encode(image, quality=80, subsampling="422") for image in images]
    assert codec.encode_batch(images, quality=80, subsampling="422", threads=threads) == datas
    decoded = codec.decode_batch(datas, threads=threads, rgb=True, reduce=2)
    for data, picture in zip(datas, decoded, strict=True):
        assert (picture == codec.decode(data, rgb=True, reduce=2)).all()


def test_an_empty_batch_has_no_results(codec: ModuleType) -> None:
    assert codec.encode_batch([], threads=2) == []
    assert codec.decode_batch(iter([]), threads=2) == []


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_batch_names_its_first_broken_item(codec: ModuleType, threads: int) -> None:
    datas = codec.encode_batch(pictures(24))
    datas[7] = datas[7][:-40]
    datas[8] = datas[8][:-40]
    with pytest.raises(ImageError, match=r"^item 7: "):
        codec.decode_batch(datas, threads=threads)
    datas[5] = b"not a JPEG"
    with pytest.raises(ImageError) as error:
        codec.decode_batch(datas, threads=threads)
    assert str(error.value) == "item 5: data does not start with the JPEG marker ffd8"
    with pytest.raises(ImageError) as error:
        codec.decode_batch(datas[:5], threads=threads, max_pixels=600)
    assert str(error.value) == "item 1: picture of 59 x 11 pixels exceeds max_pixels 600"


def test_a_failed_batch_lets_go_of_its_buffers(codec: ModuleType) -> None:
    broken = [bytearray(data) for data in codec.encode_batch(pictures(4))]
    del broken[2][-40:]
    with pytest.raises(ImageError, match=r"^item 2: "):
        codec.decode_batch(broken, threads=2)
    for data in broken:
        data.append(0)  # BufferError while anybody looks at it


def test_threads_of_the_caller_do_not_disturb_each_other(codec: ModuleType) -> None:
    images = pictures(8)
    datas = codec.encode_batch(images)
    wanted = codec.decode_batch(datas)

    def work(i: int) -> bool:
        again = codec.encode(images[i % 8])
        return again == datas[i % 8] and bool((codec.decode(again) == wanted[i % 8]).all())

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(300)))


def test_memory_and_handles_do_not_grow(codec: ModuleType) -> None:
    images = pictures(6)
    out = bytearray(codec.max_nbytes(100, 100))

    def work(rounds: int) -> None:
        for _ in range(rounds):
            datas = codec.encode_batch(images, threads=3)
            codec.encode(images[0], out=out)
            codec.decode_batch(datas, threads=3)
            codec.decode(bytearray(datas[0]))
            for broken in (datas[1][:-40], datas[1][:300], b"nothing"):
                with pytest.raises(ImageError):
                    codec.decode(broken)

    work(50)
    before = psutil.Process().memory_info().rss
    handles = compiled._coders()
    work(300)
    assert psutil.Process().memory_info().rss - before < 8 << 20
    # Up to 16 of each kind are kept; how many depends on how many threads ran at a time.
    live, idle = compiled._coders()
    assert live == idle <= max(6, handles[0])


@needs_library
def test_handles_are_used_again_and_freed_at_exit() -> None:
    code = """
import importlib
jpeg = importlib.import_module("vdag._native.jpeg")
import atexit, numpy as np
assert jpeg._coders() == (0, 0)
for _ in range(10):
    data = jpeg.encode(np.zeros((8, 8, 3), np.uint8))
    jpeg.decode(data)
assert jpeg._coders() == (2, 2)
atexit._run_exitfuncs()
assert jpeg._coders() == (0, 0)
jpeg.decode(data)
print(jpeg._coders())
"""
    done = run_python(code)
    assert (done.stdout, done.stderr) == ("(0, 0)\n", "")


@needs_library
def test_a_forked_child_codes_like_its_parent() -> None:
    code = """
import importlib, os, numpy as np
jpeg = importlib.import_module("vdag._native.jpeg")
images = [np.full((40, 40, 3), i, np.uint8) for i in range(8)]
datas = jpeg.encode_batch(images, threads=2)
child = os.fork()
if child == 0:
    os._exit(0 if jpeg.encode_batch(images, threads=2) == datas else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = run_python(code)
    assert done.stdout == "0\n", done.stderr


@needs_library
def test_the_library_is_named_and_its_python_module_never_imported() -> None:
    code = """
import importlib, sys
jpeg = importlib.import_module("vdag._native.jpeg")
path, version, api = jpeg.library()
print(path)
assert api in ("tj3", "tj"), api
assert [int(part) for part in version.split(".")] >= [2, 0], version
assert "turbojpeg" not in sys.modules and "cv2" not in sys.modules
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()
    again = run_python(code, VDAG_TURBOJPEG=done.stdout.strip())
    assert again.stdout == done.stdout


def test_the_reference_names_opencv() -> None:
    library = reference_jpeg.library()
    assert library.path == library.api == "opencv"
    assert reference_jpeg.available()


def test_a_named_library_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    text = tmp_path / "libturbojpeg.so.0"
    text.write_text("this is no library")
    code = """
import importlib
jpeg = importlib.import_module("vdag._native.jpeg")
from vdag.errors import NativeUnavailable
assert jpeg.available()  # so that nobody falls back to OpenCV
try:
    jpeg.decode(b"")
except NativeUnavailable as err:
    print(err)
"""
    done = run_python(code, VDAG_TURBOJPEG=str(text))
    wanted = f"VDAG_TURBOJPEG names {text}, which is no usable libturbojpeg: {text}: "
    assert done.stdout.startswith(wanted), done.stderr
    done = run_python(code, VDAG_TURBOJPEG="libm.so.6")
    assert done.stdout == (
        "VDAG_TURBOJPEG names libm.so.6, which is no usable libturbojpeg: "
        "it has not the functions of TurboJPEG 2.0 or later\n"
    )


def test_the_systems_library_comes_before_the_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VDAG_TURBOJPEG", raising=False)
    tried: list[str] = []

    def refuse(path: str) -> str:
        tried.append(path)
        raise OSError("no")

    with pytest.raises(NativeUnavailable) as error:
        jpeg_terms.find_library(refuse)
    assert str(error.value) == (
        "libturbojpeg is not found: install the system's, or pip install '.[turbojpeg]' in the "
        "checkout, or name a file in VDAG_TURBOJPEG"
    )
    assert tried[0] == "libturbojpeg.so.0"
    from_wheel = ["turbojpeg.libs" in path for path in tried]
    assert from_wheel == sorted(from_wheel)
    assert jpeg_terms.find_library(lambda path: path) == "libturbojpeg.so.0"


def test_a_build_without_its_version_is_of_unknown_version(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.write_bytes(b"\0libjpeg-turbo version 3.0.4 (build 20240914)\0")
    assert jpeg_terms.library_version(str(library)) == "3.0.4"
    library.write_bytes(b"nothing")
    assert jpeg_terms.library_version(str(library)) == "unknown"


def test_without_opencv_the_reference_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DependencyMissing) as error:
        reference_jpeg.decode(b"")
    assert (error.value.module, error.value.extra) == ("cv2", "video")
