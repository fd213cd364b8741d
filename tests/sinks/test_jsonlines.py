from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.errors import SinkError
from vdag.results import Outputs, Result
from vdag.sinks import JsonLinesSink, Sink


def result(seq: int = 0, fields: Outputs | None = None) -> Result:
    outputs = {"own": fields or {}}
    return Result("cam ä", seq, 3 * seq, seq / 10, 640, 480, outputs, delay_s=0.25)


def write_and_raise(sink: JsonLinesSink, err: BaseException, *results: Result) -> None:
    with sink:
        for item in results or (result(),):
            sink.write(item)
        raise err


def test_a_result_is_a_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    boxes = np.array([[1, 2, 3, 4.5]], np.float32)
    with JsonLinesSink(path) as sink:
        assert isinstance(sink, Sink)
        for seq in range(3):
            sink.write(result(seq, {"bbox": boxes, "faces": [np.zeros((2, 2, 3), np.uint8)]}))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "stream": "cam ä",
            "seq": seq,
            "frame_id": 3.0 * seq,
            "pts_s": seq / 10,
            "width": 640,
            "height": 480,
            "delay": 0.25,
            "task_delay": {},
            "outputs": {"own": {"bbox": [[1.0, 2.0, 3.0, 4.5]]}},
        }
        for seq in range(3)
    ]


def test_pictures_are_written_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    with JsonLinesSink(path, pictures=True) as sink:
        sink.write(result(0, {"faces": [np.zeros((1, 2, 3), np.uint8)]}))
    assert json.loads(path.read_bytes())["outputs"]["own"]["faces"] == [[[[0, 0, 0], [0, 0, 0]]]]


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.floats(), max_size=5))
def test_any_outputs_are_one_line_each(
    tmp_path_factory: pytest.TempPathFactory, fields: Outputs
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    with JsonLinesSink(path) as sink:
        sink.write(result(0, fields))
    (line,) = path.read_bytes().removesuffix(b"\n").split(b"\n")
    assert json.loads(line)["seq"] == 0


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    with JsonLinesSink(path) as sink:
        sink.write(result())
        assert not path.exists()
    assert [item.name for item in tmp_path.iterdir()] == ["found.jsonl"]
    sink.close()
    with pytest.raises(SinkError, match=r"found\.jsonl: is closed$"):
        sink.write(result())


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    with JsonLinesSink(tmp_path / "found.jsonl"):
        pass
    assert (tmp_path / "found.jsonl").read_bytes() == b""


@pytest.mark.parametrize(("kind", "kept"), [(ValueError, False), (KeyboardInterrupt, True)])
def test_an_error_removes_the_file_and_an_interrupt_keeps_it(
    tmp_path: Path, kind: type[BaseException], kept: bool
) -> None:
    path = tmp_path / "found.jsonl"
    with pytest.raises(kind):
        write_and_raise(JsonLinesSink(path), kind())
    assert [item.name for item in tmp_path.iterdir()] == (["found.jsonl"] if kept else [])


def test_a_folder_of_that_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError) as caught:
        JsonLinesSink(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be written: is a directory"


def test_standard_output_gets_every_line_and_stays_open(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(1, "w", closefd=False) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with JsonLinesSink("-") as sink:
            sink.write(result())
            first = capfdbinary.readouterr().out
        with pytest.raises(ValueError, match="broken"):
            write_and_raise(JsonLinesSink("-"), ValueError("broken"), result(1))
        assert json.loads(first)["seq"] == 0
        assert json.loads(capfdbinary.readouterr().out)["seq"] == 1


PIPE = """
import sys
from vdag.errors import SinkError
from vdag.results import Outputs, Result
from vdag.sinks import open_sink

sink = open_sink("-")
try:
    while True:
        sink.write(Result("cam", 0, 0, None, 1, 1, {}))
except SinkError as err:
    print(err, file=sys.stderr)
"""


def test_a_reader_that_goes_away_is_an_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PIPE], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.readline()
        writer.stdout.close()
        assert writer.stderr.readline() == b"standard output: cannot be written: broken pipe\n"
        writer.stderr.read()
        writer.wait(30)
