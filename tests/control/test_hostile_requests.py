"""Requests whose pictures are made up, or damaged: a refusal or a picture, and little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from request_kit import JPEG, KINDS, PIXELS, form, look, readers, requests

from vdag.control.service.schemas import JSON, MSGPACK
from vdag.errors import ImageError

READERS = readers()
REQUESTS = list(requests())
KIT = Path(__file__).parents[1] / "kit"

#: Replaces, inserts, or removes: where, as a fraction; how many bytes go; what comes.
DAMAGE = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=6)), min_size=1, max_size=4
)


def damaged(body: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    found = bytearray(body)
    for place, count, new in changes:
        start = int(place * len(found))
        found[start : start + count] = new
    return bytes(found)


@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_a_good_request_is_read_by_a_task_that_takes_it(number):
    kind, body = REQUESTS[number]
    orders = [look(reader, body, KINDS[kind], is_list=False) for reader in READERS]
    assert any(order is not None and order.works for order in orders)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(REQUESTS), DAMAGE, st.sampled_from(READERS), st.booleans())
def test_a_damaged_request_is_refused_or_read(request, changes, reader, is_list):
    kind, body = request
    look(reader, damaged(body, changes), KINDS[kind], is_list=is_list)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(KINDS), st.sampled_from(READERS))
def test_whatever_comes_is_refused_or_read(body, kind, reader):
    look(reader, body, kind, is_list=False)


NUMBERS = st.integers(-2, 300) | st.floats() | st.booleans() | st.none() | st.text(max_size=3)
ROWS = st.lists(st.lists(st.integers(0, 255) | NUMBERS, max_size=4), max_size=4)
PIXEL_LISTS = ROWS | st.lists(ROWS, max_size=4)


@settings(deadline=None)
@given(PIXEL_LISTS, st.sampled_from([(",", ":"), (" , ", " : ")]))
def test_pixel_lists_are_refused_or_are_what_numpy_reads(value, separators):
    body = json.dumps({"image": value}, separators=separators).encode()
    look(READERS[0], body, JSON, is_list=False)


@settings(deadline=None)
@given(st.text(alphabet="b'\"\\x0189afnrtAZ+/= \u00e9", max_size=40))
def test_texts_are_refused_or_read(text):
    look(READERS[0], json.dumps({"image": text}).encode(), JSON, is_list=False)


@pytest.mark.parametrize("field", ["image", "image_list", "faces", "clip"])
def test_text_that_is_not_utf8_is_refused(field):
    value = b'"\xff"' if field == "image" else b'["\xff"]'
    bodies = [b'{"%s": %s, "bbox": [], "prob": []}' % (field.encode(), value)]
    bodies.append(b'{"\xff": 1, ' + bodies[0][1:])
    for reader in READERS:
        for body in bodies:
            assert look(reader, body, JSON, is_list=field == "image_list") is None


def test_a_jpeg_that_lies_about_its_size_is_refused_by_its_header():
    place = JPEG.index(b"\xff\xc0") + 5
    body = JPEG[:place] + b"\xff\xff\xff\xff" + JPEG[place + 4 :]
    with pytest.raises(ImageError, match=r"^field image: "):
        READERS[0].read(body, "image/jpeg")


HOSTILE = {
    "deep": (JSON, b'{"image": ' + b"[" * 500_000 + b"]" * 500_000 + b"}"),
    "deep elsewhere": (JSON, b'{"other": ' + b"[" * 500_000 + b"]" * 500_000 + b"}"),
    "strings": (JSON, b'{"image_list": [' + b'"",' * 300_000 + b'""]}'),
    "boxes": (JSON, b'{"image": "x", "bbox": [' + b"[]," * 300_000 + b"[]]}"),
    "keys": (JSON, b"{" + b",".join(b'"%d":0' % n for n in range(100_000)) + b"}"),
    "escapes": (JSON, b'{"image": "' + b"\\u0041" * 150_000 + b'"}'),
    "array that lies": (MSGPACK, b"\x81\xaaimage_list\xdd\xff\xff\xff\xff"),
    "map that lies": (MSGPACK, b"\xdf\xff\xff\xff\xff"),
    "bytes that lie": (MSGPACK, b"\x81\xa5image\xc6\xff\xff\xff\xff"),
    "parts": (KINDS[2], form(image=b"") * 1000),
    "headers": (KINDS[2], b"--XX\r\n" + b"a: b\r\n" * 100_000),
    "name": (KINDS[2], b'--XX\r\nContent-Disposition: form-data; name="' + b"n" * 900_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_costs_no_more_than_a_small_multiple_of_its_length(name):
    kind, body = HOSTILE[name]
    for reader in READERS:
        tracemalloc.start()
        try:
            look(reader, body, kind, is_list=False)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 * len(body) + (1 << 20)


#: In a process of its own, as what native code takes is bounded for a whole process alone.
BOUNDED = """
import resource, sys
import psutil
from request_kit import KINDS, look, readers
READERS = readers()
look(READERS[0], open(sys.argv[1], "rb").read(), KINDS[int(sys.argv[2])], is_list=False)
limit = psutil.Process().memory_info().vms + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for reader in READERS:
    for path in sys.argv[3:]:
        look(reader, open(path, "rb").read(), KINDS[int(sys.argv[2])], is_list=False)
"""


def test_decoding_takes_no_memory_that_a_header_asks_for(tmp_path):
    """A picture may take what `max_pixels` says, and its header cannot talk a decoder into more."""
    good = tmp_path / "good.jpg"
    good.write_bytes(JPEG)
    paths = []
    for number, size in enumerate((b"\xff\xff\xff\xff", b"\x40\x00\x40\x00", b"\x00\x01\xff\xff")):
        for marker in (b"\xff\xc0", b"\xff\xc2"):  # baseline, progressive
            place = JPEG.index(b"\xff\xc0")
            path = tmp_path / f"{number}-{marker[1]}.jpg"
            path.write_bytes(JPEG[:place] + marker + JPEG[place + 2 : place + 5] + size
                             + JPEG[place + 9 :])  # fmt: skip
            paths.append(str(path))
    folders = [str(KIT), str(KIT.parents[1]), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(good), "3", *paths],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr


def test_the_kits_oracle_finds_a_picture_that_is_wrong(monkeypatch):
    body = json.dumps({"image": PIXELS.tolist()}).encode()
    assert look(READERS[0], body, JSON, is_list=False) is not None
    monkeypatch.setattr("request_kit.json.loads", lambda text: {"image": (PIXELS ^ 1).tolist()})
    with pytest.raises(AssertionError):
        look(READERS[0], body, JSON, is_list=False)
