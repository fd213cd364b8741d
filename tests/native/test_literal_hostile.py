"""What a text must not be: whatever it holds, it is read as Python reads it, or refused."""

from __future__ import annotations

import ast
import random
import re
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vdag._native import literal, literal_terms, reference_literal
from vdag.errors import ConfigError, ImageError

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


def outcome(
    codec: ModuleType, text: str | bytes | bytearray, max_nbytes: int = ROOMY
) -> bytes | str:
    """The bytes, or the message of the refusal."""
    try:
        content = codec.decode(text, max_nbytes=max_nbytes)
    except ImageError as err:
        return str(err)
    assert isinstance(content, bytes)
    return content


def python_takes(text: str) -> object:
    """What Python makes of a text; None if it refuses or warns.

    Blanks at its end would be an indentation behind a line break, and mean nothing elsewhere.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return ast.literal_eval(text.rstrip(" \t\f"))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return None


# ---- faults ----

REFUSED = [
    ("", "the end at position 0 where a bytes literal should begin"),
    ("  ", "the end at position 2 where a bytes literal should begin"),
    ("'a'", "''' at position 0 where a bytes literal should begin"),
    ("\n b'a'", "byte 0x20 at position 1 where a bytes literal should begin"),
    ("\vb'a'", "byte 0x0b at position 0 where a bytes literal should begin"),
    ("rb'a'", "'r' at position 0 where a bytes literal should begin"),
    ("(b'a')", "'(' at position 0 where a bytes literal should begin"),
    ("br'a'", "'r' at position 1 where a quote should follow the b"),
    ("b 'a'", "byte 0x20 at position 1 where a quote should follow the b"),
    (" b", "the end at position 2 where a quote should follow the b"),
    ("b'''a'''", "triple quote at position 1"),
    ('b"""a"""', "triple quote at position 1"),
    (r"b'\q'", "unknown escape at position 2: a backslash before 'q'"),
    (r"b'\u0041'", "unknown escape at position 2: a backslash before 'u'"),
    (r"b'\N{DOT}'", "unknown escape at position 2: a backslash before 'N'"),
    (r"b'\X41'", "unknown escape at position 2: a backslash before 'X'"),
    (r"b'\8'", "unknown escape at position 2: a backslash before '8'"),
    ("b'\\ '", "unknown escape at position 2: a backslash before byte 0x20"),
    ("b'\\\0'", "unknown escape at position 2: a backslash before byte 0x00"),
    (r"b'\x'", "escape at position 2 lacks two hex digits"),
    (r"b'\x4'", "escape at position 2 lacks two hex digits"),
    (r"b'a\xg0a'", "escape at position 3 lacks two hex digits"),
    (r"b'a\x0:a'", "escape at position 3 lacks two hex digits"),
    (r"b'\x0\x00'", "escape at position 2 lacks two hex digits"),
    (r"b'\x", "escape at position 2 lacks two hex digits"),
    (r"b'a\400'", "octal escape at position 3 exceeds 255"),
    (r"b'\777'", "octal escape at position 2 exceeds 255"),
    ("b'a\nb'", "newline at position 3 within the literal"),
    ("b'a\rb'", "newline at position 3 within the literal"),
    ("b'a\\\n\rb'", "newline at position 5 within the literal"),
    ("b'a\0b'", "NUL at position 3 within the literal"),
    ("b'", "literal is not closed before the end at position 2"),
    ("b'a\"", "literal is not closed before the end at position 4"),
    ("b'a\\", "literal is not closed before the end at position 4"),
    ("b'a\\'", "literal is not closed before the end at position 5"),
    ("b'a' 'b'", "''' at position 5 behind the literal"),
    ("b'a'b'b'", "'b' at position 4 behind the literal"),
    ("b'a', ", "',' at position 4 behind the literal"),
    ("b'a'#", "'#' at position 4 behind the literal"),
    ("b'a'\v", "byte 0x0b at position 4 behind the literal"),
    ("b'a'\n\0", "byte 0x00 at position 5 behind the literal"),
    ("b'a' if x else exit()", "'i' at position 5 behind the literal"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_anything_else_is_refused_at_its_position(
    codec: ModuleType, text: str, message: str
) -> None:
    assert outcome(codec, text) == message
    assert outcome(codec, text.encode()) == message


INSIDE = [
    (rb"\q", 0, "unknown escape at position {at}: a backslash before 'q'"),
    (b"\\\xc3", 0, "unknown escape at position {at}: a backslash before byte 0xc3"),
    (rb"\xg0", 0, "escape at position {at} lacks two hex digits"),
    (rb"\x0g", 0, "escape at position {at} lacks two hex digits"),
    (rb"\x0\x00", 0, "escape at position {at} lacks two hex digits"),
    (b"\\x\xb0\xb0", 0, "escape at position {at} lacks two hex digits"),
    (rb"\\\400", 2, "octal escape at position {at} exceeds 255"),
    (b"\n", 0, "newline at position {at} within the literal"),
    (b"\r", 0, "newline at position {at} within the literal"),
    (b"\0", 0, "NUL at position {at} within the literal"),
    (b"\xc3\xa9", 0, "byte 0xc3 at position {at} is not ASCII"),
    (b"'", 1, "'.' at position {at} behind the literal"),
]


@pytest.mark.parametrize(("fragment", "offset", "message"), INSIDE)
def test_a_fault_anywhere_in_a_vector_is_reported_where_it_is(
    codec: ModuleType, fragment: bytes, offset: int, message: str
) -> None:
    for before in (0, 1, *range(58, 68), 126):
        text = b"b'" + b"." * before + fragment + b"." * 200 + b"'"
        assert outcome(codec, text) == message.format(at=2 + before + offset)


def test_a_str_beyond_ascii_is_refused_at_its_character(codec: ModuleType) -> None:
    for text, name in (("b'é'", "U+00E9"), ("b'\ud800'", "U+D800"), ("b'\U0001f600'", "U+1F600")):
        assert outcome(codec, text) == f"{name} at position 2 is not ASCII"
    assert outcome(codec, "\ufeffb''") == "U+FEFF at position 0 is not ASCII"
    assert outcome(codec, b"\xef\xbb\xbfb''") == (
        "byte 0xef at position 0 where a bytes literal should begin"
    )


def test_every_fault_has_its_wording() -> None:
    assert set(literal_terms.WORDING) == set(literal_terms.Fault)


# ---- limits ----


@pytest.mark.parametrize("unit", ["a", r"\n", r"\xff", r"\377"])
@pytest.mark.parametrize("limit", [0, 1, 5, 63, 64, 65, 200])
def test_a_literal_may_have_as_many_bytes_as_the_limit(
    codec: ModuleType, unit: str, limit: int
) -> None:
    fits, exceeds = (f"b'{unit * count}'" for count in (limit, limit + 1))
    assert len(codec.decode(fits, max_nbytes=limit)) == limit
    at = 2 + limit * len(unit)
    assert outcome(codec, exceeds, limit) == f"literal exceeds max_nbytes {limit} at position {at}"


def test_the_limit_counts_bytes_not_characters(codec: ModuleType) -> None:
    assert codec.decode("b'" + "\\\n" * 1000 + "a\\\n'", max_nbytes=1) == b"a"


def test_a_negative_limit_is_refused(codec: ModuleType) -> None:
    with pytest.raises(ConfigError, match=r"^max_nbytes -1 below 0$"):
        codec.decode("b''", max_nbytes=-1)


def test_a_limit_beyond_memory_costs_nothing(codec: ModuleType) -> None:
    assert codec.decode("b'a'", max_nbytes=1 << 80) == b"a"


def test_no_more_memory_than_the_limit_is_taken() -> None:
    text = "b'" + r"\xff" * 500_000 + "'"
    for limit in (100_000, 500_000):
        tracemalloc.start()
        try:
            outcome(literal, text, limit)
            _, peak_nbytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_nbytes < limit + 20_000


def test_the_result_has_no_slack() -> None:
    content = literal.decode("b'" + r"\xff" * 1000 + "'", max_nbytes=ROOMY)
    assert sys.getsizeof(content) == sys.getsizeof(bytes(1000))


# ---- agreement with Python ----


@pytest.mark.parametrize("length", [*range(1, 9), 63, 64, 65, 127, 128, 129])
@pytest.mark.parametrize("tail", ["", "n", "x41", "'"])
def test_runs_of_backslashes_pair_up_across_vectors(
    codec: ModuleType, length: int, tail: str
) -> None:
    for before in (*range(56, 66), 120, 121):
        text = "b'" + "." * before + "\\" * length + tail + "n" * 70 + "'"
        expected = python_takes(text)
        took = outcome(codec, text)
        assert took == expected or (expected is None and isinstance(took, str))


CHARACTERS = list("\\\\\\x4f07'\"\n\r\t bBn#(\0\x7fé")
WORDS = ["\\x41", "\\\\", "\\n", "\\\n", "\\377", "\\400", "." * 61]
fragments = st.lists(st.sampled_from(CHARACTERS + WORDS), max_size=30).map("".join)


@settings(deadline=None, max_examples=400)
@example(prefix="b'", body="", end="\n\t")
@given(prefix=st.sampled_from(["b'", 'b"', "B'", ""]), body=fragments, end=fragments)
def test_what_is_accepted_python_reads_the_same(
    codec: ModuleType, prefix: str, body: str, end: str
) -> None:
    text = prefix + body + prefix[1:] + end
    took = outcome(codec, text)
    if isinstance(took, bytes):
        assert took == python_takes(text)
    assert took == outcome(reference_literal, text)
    limit = len(text) // 3
    assert outcome(codec, text, limit) == outcome(reference_literal, text, limit)


@settings(deadline=None, max_examples=400)
@given(
    content=st.binary(min_size=1, max_size=300),
    places=st.lists(st.tuples(st.integers(0, 1200), st.binary(min_size=0, max_size=3)), max_size=4),
)
def test_a_damaged_literal_is_refused_or_read_as_python_does(
    codec: ModuleType, content: bytes, places: list[tuple[int, bytes]]
) -> None:
    damaged = bytearray(repr(content).encode())
    for at, change in places:
        start = at % len(damaged)
        damaged[start : start + len(change)] = change
    text = bytes(damaged)
    took = outcome(codec, text)
    assert took == outcome(reference_literal, text)
    if isinstance(took, bytes):
        assert took == python_takes(text.decode())


ONE_LITERAL = re.compile(
    r"""[ \t]*[\r\n]*[bB]('(?!'')([^'\\]|\\.)*'|"(?!"")([^"\\]|\\.)*")""", re.DOTALL
)


@settings(deadline=None, max_examples=400)
@given(prefix=st.sampled_from(["b'", 'b"', " B'", "\nb'"]), body=fragments)
def test_one_literal_that_python_reads_without_a_warning_is_accepted(
    codec: ModuleType, prefix: str, body: str
) -> None:
    text = prefix + body + prefix[-1]
    content = python_takes(text)
    if isinstance(content, bytes) and ONE_LITERAL.fullmatch(text):
        assert codec.decode(text, max_nbytes=ROOMY) == content


# ---- threads ----


def test_bytes_that_change_meanwhile_are_coded_somehow_or_refused() -> None:
    texts = repr(NOISE).encode(), b"b'" + b"\\x41" * 60_000 + b"'"
    texts = tuple(text.ljust(300_000) for text in texts)
    shared, done, refusals = bytearray(texts[0]), threading.Event(), set()

    def change() -> None:
        while not done.is_set():
            for text in texts:
                shared[:] = text

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            assert len(outcome(literal, shared, 50_000)) <= 50_000
            try:
                assert isinstance(ast.literal_eval(literal.encode(shared)), bytes)
            except ImageError as err:
                refusals.add(str(err))
    finally:
        done.set()
        thread.join(timeout=60)
    assert refusals <= {"data changed while it was encoded"}
