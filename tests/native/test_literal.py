from __future__ import annotations

import array
import ast
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vdag._native import literal, reference_literal
from vdag.errors import ConfigError, ImageError

ALL = bytes(range(256))
NOISE = random.Random(7).randbytes(100_000)
ROOMY = 1 << 20


@pytest.fixture(scope="module", params=["reference", *literal._simd_levels()])
def codec(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The reference, and the compiled module on each instruction set of this CPU."""
    if request.param == "reference":
        yield reference_literal
        return
    literal._set_simd(request.param)
    yield literal
    literal._set_simd(None)


def python_takes(text: str) -> object:
    """What Python makes of a text; None if it refuses or warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return None


# ---- bytes to text ----

quoted = st.lists(st.sampled_from([b"'", b'"', b"\\", b"\n", b"\t", b"\r", b"x", b"\xff", b"\0"]))
contents = st.binary(max_size=400) | quoted.map(b"".join)


@settings(deadline=None)
@given(content=contents, before=st.integers(0, 130))
@example(content=ALL, before=0)
@example(content=b"", before=0)
@example(content=b"it's", before=64)
@example(content=b'"it\'s"', before=64)
def test_encoding_is_repr_and_decoding_its_inverse(
    codec: ModuleType, content: bytes, before: int
) -> None:
    content = b"." * before + content  # every place of a vector
    text = codec.encode(content)
    assert text == repr(content)
    assert text.isascii()
    assert codec.decode(text, max_nbytes=len(content)) == content
    assert codec.decode(text.encode(), max_nbytes=len(content)) == content


def test_long_noise_comes_back(codec: ModuleType) -> None:
    for content in (NOISE, NOISE.replace(b"'", b""), NOISE.replace(b'"', b"")):
        text = codec.encode(content)
        assert text == repr(content)
        assert codec.decode(text, max_nbytes=len(content)) == content


@pytest.mark.parametrize("byte", [b"a", b"\xff", b"\\", b"'", b"\n"])
def test_every_length_around_a_vector_comes_back(codec: ModuleType, byte: bytes) -> None:
    for nbytes in (*range(10, 72), *range(120, 136), 255, 256, 257):
        text = codec.encode(byte * nbytes)
        assert text == repr(byte * nbytes)
        assert codec.decode(text, max_nbytes=nbytes) == byte * nbytes


@pytest.mark.parametrize(
    "source",
    [
        bytearray(b"a\xffb"),
        memoryview(b".a\xffb.")[1:-1],
        np.frombuffer(b"a\xffb", np.uint8),
        memoryview(b"a\xffb").cast("B", (1, 3)),
    ],
    ids=["bytearray", "memoryview", "array", "two dimensions"],
)
def test_any_contiguous_buffer_is_encoded(codec: ModuleType, source: object) -> None:
    assert codec.encode(source) == r"b'a\xffb'"


def test_the_bytes_of_wider_items_count(codec: ModuleType) -> None:
    assert codec.encode(array.array("H", [0x4141, 0x4242])) == "b'AABB'"


def test_what_is_no_contiguous_buffer_is_refused(codec: ModuleType) -> None:
    with pytest.raises(ImageError, match=r"^data is not contiguous$"):
        codec.encode(memoryview(ALL)[::2])
    with pytest.raises(ImageError, match=r"^text is not contiguous$"):
        codec.decode(memoryview(ALL)[::2], max_nbytes=9)
    with pytest.raises(TypeError, match="bytes-like object is required"):
        codec.encode("text")
    with pytest.raises(TypeError, match="bytes-like object is required"):
        codec.decode(7, max_nbytes=9)


# ---- text to bytes: what is accepted ----

ACCEPTED = [
    ("b''", b""),
    ('b""', b""),
    ("B'a'", b"a"),
    ("b'\"'", b'"'),
    ('b"\'"', b"'"),
    (r"b'\\\'\"\a\b\f\n\r\t\v'", b"\\'\"\a\b\f\n\r\t\v"),
    (r"b'\x00\xfF\xAb\x7f'", b"\x00\xff\xab\x7f"),
    (r"b'\0\08\18\012\0012\377\3777\47'", b"\x00\x008\x018\n\x012\xff\xff7'"),
    ("b'a\\\nb\\\r\nc\\\rd\\\n\\\n'", b"abcd"),
    ("b'\x01\x0b\x0c\x1a\t\x7f'", b"\x01\x0b\x0c\x1a\t\x7f"),
    (" \t b'a' \t\r\n\f \n", b"a"),
    (" \n\r\nb'a'", b"a"),
    (r"b'\\x41\\\x41'", rb"\x41\A"),
    (r"b'\\'", b"\\"),
    (r"b'x41'", b"x41"),
]


@pytest.mark.parametrize(("text", "content"), ACCEPTED)
def test_every_way_to_write_a_byte_is_read(codec: ModuleType, text: str, content: bytes) -> None:
    quote = text.lstrip()[1]
    for before in (0, 1, *range(56, 66), 200):
        padded = text.replace(quote, quote + "." * before + "|", 1)
        padded = padded[::-1].replace(quote, quote + "." * 70, 1)[::-1]
        expected = b"." * before + b"|" + content + b"." * 70
        assert python_takes(padded) == expected
        assert codec.decode(padded, max_nbytes=len(expected)) == expected


# ---- into memory of the caller ----


def test_a_buffer_is_written_from_its_first_byte_on(codec: ModuleType) -> None:
    out = bytearray(b"." * 6)
    assert codec.decode_into(r"b'\xffa\\'", out) == 3
    assert out == b"\xffa\\..."
    array = np.zeros((2, 2), np.uint16)
    assert codec.decode_into(b"b'abcdefgh'", array) == 8
    assert array.tobytes() == b"abcdefgh"
    assert codec.decode_into("b''", np.empty((0, 3), np.uint8)) == 0


def test_noise_fits_a_buffer_of_its_size_and_nothing_behind_is_touched(codec: ModuleType) -> None:
    text = repr(NOISE)
    out = bytearray(b"." * (len(NOISE) + 100))
    view = memoryview(out)
    assert codec.decode_into(text, view[: len(NOISE)]) == len(NOISE)
    assert out == NOISE + b"." * 100
    for short in (len(NOISE) - 1, 1000, 1):
        out[:] = b"." * len(out)
        with pytest.raises(ImageError, match=rf"^literal exceeds out of {short} bytes at position"):
            codec.decode_into(text, view[:short])
        assert out[short:] == b"." * (len(out) - short)


def test_a_buffer_that_cannot_be_written_is_refused(codec: ModuleType) -> None:
    with pytest.raises(ImageError, match=r"^out is read-only$"):
        codec.decode_into("b'a'", b".")
    with pytest.raises(ImageError, match=r"^out is not contiguous$"):
        codec.decode_into("b'a'", memoryview(bytearray(8))[::2])


def test_buffers_are_let_go(codec: ModuleType) -> None:
    text, out, content = bytearray(b"b'a'"), bytearray(4), bytearray(b"a")
    codec.decode_into(text, out)
    codec.encode(content)
    text[2:3] = b"\\q"
    with pytest.raises(ImageError):
        codec.decode_into(text, out)
    with pytest.raises(ImageError):
        codec.decode(text, max_nbytes=9)
    for buffer in (text, out, content):
        buffer.append(0)  # BufferError while anybody looks at it


# ---- threads ----


def test_threads_share_the_codec(codec: ModuleType) -> None:
    text, results = repr(NOISE), []

    def work() -> None:
        for _ in range(5):
            results.append(codec.decode(text, max_nbytes=ROOMY) == NOISE)
            results.append(codec.encode(NOISE) == text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == [True] * 40


# ---- instruction sets ----


def test_the_best_level_is_chosen_and_named() -> None:
    literal._set_simd(None)
    assert literal.simd() == literal._simd_levels()[-1]
    assert literal._simd_levels()[0] == "plain"
    assert reference_literal.simd() == "python"


def test_a_level_without_loops_here_means_the_next_lower() -> None:
    try:
        literal._set_simd("neon")
        assert literal.simd() == "plain"
    finally:
        literal._set_simd(None)


def test_an_unknown_level_is_refused_and_the_last_one_stays() -> None:
    text = r"^VDAG_SIMD 'mmx' is not one of plain, neon, avx2, avx512$"
    with pytest.raises(ConfigError, match=text):
        literal._set_simd("mmx")
    assert literal.simd() == literal._simd_levels()[-1]


@pytest.mark.parametrize(
    ("value", "answer"), [("plain", "plain"), ("", literal._simd_levels()[-1])]
)
def test_the_environment_lowers_the_level_when_first_used(value: str, answer: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from vdag._native import literal; print(literal.simd())"],
        env=os.environ | {"VDAG_SIMD": value},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.strip() == answer
