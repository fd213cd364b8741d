"""What the system and the libraries say, in the words of this package's errors."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from vdag.wording import located, reason, rephrase


class Inner(msgspec.Struct):
    cores: Annotated[int, msgspec.Meta(ge=1)]


class Outer(msgspec.Struct):
    nodes: list[Inner] = []
    services: dict[Annotated[str, msgspec.Meta(max_length=3)], int] = {}


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        (b'{"nodes": [{"cores": "4"}]}', "nodes[0].cores", "expected int, got str"),
        (b'{"nodes": [{"cores": 0}]}', "nodes[0].cores", "expected int >= 1"),
        (b'{"services": {"faces": 1}}', "services", "expected str of length <= 3"),
        (b"[]", "", "expected object, got array"),
        (b"{", "", "input data was truncated"),
        (b"{nodes", "", "JSON is malformed: object keys must be strings (byte 1)"),
    ],
)
def test_the_place_comes_before_what_is_wrong_there(text: bytes, place: str, what: str):
    with pytest.raises(msgspec.DecodeError) as info:
        msgspec.json.decode(text, type=Outer)
    assert located(info.value) == (place, what)
    assert rephrase(info.value) == (f"{place}: {what}" if place else what)


def test_a_text_that_is_nested_too_deeply_is_no_secret_of_python():
    with pytest.raises(RecursionError) as info:
        msgspec.json.decode(b"[" * 100_000, type=Any)
    assert rephrase(info.value) == "it is nested too deeply"


@pytest.mark.parametrize(
    ("err", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "/x"), "no such file or directory"),
        (ValueError("Out of Range"), "out of range"),
    ],
)
def test_a_reason_is_in_lower_case_and_names_no_file(err: Exception, text: str):
    assert reason(err) == text
