from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vdag._native import quoted, reference_quoted
from vdag.errors import ConfigError


@pytest.fixture(scope="module", params=["reference", *quoted._simd_levels()])
def kernel(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The reference, and the compiled module on each instruction set of this CPU."""
    if request.param == "reference":
        yield reference_quoted
        return
    quoted._set_simd(request.param)
    yield quoted
    quoted._set_simd(None)


@settings(deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=20), st.binary(max_size=20))
@example(b"'\"\\", b"", b"")
@example(bytes(range(256)), b"{", b"}")
def test_the_text_of_every_bytes_literal_is_read(kernel, content, before, behind):
    text = str(content)
    body = before + json.dumps(text).encode() + behind
    assert kernel.read(body, len(before)) == (text.encode(), len(body) - len(behind))


PIECES = [b'"', b"\\", b"\\\\", b'\\"', b"\\n", b"\\u0041", b"a", b"\n", b"\x7f", b"\xc3"]
hostile = st.lists(st.sampled_from(PIECES), max_size=40)
#: Blocks of 64 that the pieces lie across.
fillers = st.integers(0, 130).map(lambda count: b"\\\\" * (count // 2) + b"x" * (count % 2))


@settings(deadline=None, max_examples=500)
@given(st.tuples(fillers, hostile.map(b"".join), fillers, hostile.map(b"".join)))
def test_what_is_read_is_what_json_says_and_all_agree(kernel, parts):
    body = b'"' + b"".join(parts)
    found = kernel.read(body, 0)
    assert found == reference_quoted.read(body, 0)
    if found is not None:
        text, end = found
        assert json.loads(body[:end]) == text.decode()


@pytest.mark.parametrize(
    "body",
    [b'"', b'"abc', b'"abc\\"', b'"a\\nb"', b'"\\u0041"', b'"\x7f"', b'"\x1f"', b'"\xc3\xa4"'],
)
def test_a_string_of_another_kind_is_left_to_a_parser(kernel, body):
    assert kernel.read(body, 0) is None


@pytest.mark.parametrize("start", [-1, 1, 3])
def test_a_start_that_is_no_quote_is_refused(kernel, start):
    with pytest.raises(ConfigError, match=rf"^start {start} is not the place of a quote$"):
        kernel.read(b'"a"'[: start + 1] if start == 3 else b'"a"', start)


def test_buffers_are_read_where_they_are(kernel):
    assert kernel.read(memoryview(bytearray(b'xx"a"')), 2) == (b"a", 5)


def test_a_level_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match=r"^VDAG_SIMD 'mmx' is not one of plain, neon, avx2, "):
        quoted._set_simd("mmx")
