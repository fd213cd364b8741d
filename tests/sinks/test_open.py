from __future__ import annotations

from pathlib import Path

import pytest

from vdag.errors import ConfigError, SinkError
from vdag.results import Result
from vdag.sinks import (
    CallbackSink,
    FrameFolderSink,
    JsonLinesSink,
    Sink,
    VideoSink,
    open_sink,
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("out.mp4", VideoSink),
        ("out.MKV", VideoSink),
        ("out.jsonl", JsonLinesSink),
        ("out.ndjson", JsonLinesSink),
        ("frames/", FrameFolderSink),
        ("", FrameFolderSink),
    ],
)
def test_a_sink_is_found_by_its_name(tmp_path: Path, name: str, kind: type) -> None:
    sink = open_sink(f"{tmp_path}/{name}")
    assert isinstance(sink, kind)
    assert isinstance(sink, Sink)
    sink.abort()


def test_a_dash_is_standard_output() -> None:
    sink = open_sink("-")
    assert isinstance(sink, JsonLinesSink)
    sink.close()


def test_options_reach_the_sink(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^crf is 99, expected 0 to 51$"):
        open_sink(tmp_path / "out.mp4", crf=99)


def test_a_function_is_called_with_every_result() -> None:
    found: list[int] = []
    with open_sink(lambda result: found.append(result.seq)) as sink:
        assert isinstance(sink, CallbackSink)
        for seq in range(3):
            sink.write(Result("cam", seq, seq, None, 1, 1, {}))
    assert found == [0, 1, 2]
    with pytest.raises(SinkError, match=r"^callback: is closed$"):
        sink.write(Result("cam", 3, 3, None, 1, 1, {}))


def test_what_a_function_raises_comes_through() -> None:
    def fail(result: Result) -> None:
        raise LookupError(result.stream)

    with pytest.raises(LookupError, match="cam"), open_sink(fail) as sink:
        sink.write(Result("cam", 0, 0, None, 1, 1, {}))


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_sink("found.csv")
    assert str(caught.value) == (
        "'found.csv' is no sink: expected .mp4, .mov, .mkv, .jsonl, .ndjson, a folder ending in / "
        "or -"
    )
