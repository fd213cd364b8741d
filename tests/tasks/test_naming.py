"""Names that carry parameters: there and back, everywhere, and whatever somebody makes up."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import vdag
from vdag import tasks
from vdag.child import WorkerSettings
from vdag.errors import ConfigError, GraphError
from vdag.graph import Graph
from vdag.tasks import TaskOptions, base
from vdag.tasks.naming import MAX_NBYTES, base_of, label, name_of, parse
from vdag.tasks.params import Param, check
from vdag.tasks.variants import variants
from vdag.transport import codec, messages

SIZE = {"width": 320, "height": 240}
RESIZE = "resize__fch6gpb9ctk788hq68q30b12etkm8t3848t36chgfk"

identifiers = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,11}", fullmatch=True)
values = st.one_of(
    st.booleans(),
    st.integers(-(1 << 53), 1 << 53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
few = st.dictionaries(identifiers, values, max_size=3)


def code(value: object) -> str:
    return base64.b32hexencode(json.dumps(value).encode()).decode().rstrip("=").lower()


@pytest.fixture
def shade():
    """A task of a user's with parameters."""

    @vdag.task(outputs=["shade"], params={"factor": Param(0.5, 0.0, 4.0), "name": "grey"})
    def shade(image, factor, name):
        return {"shade": f"{name} {image.mean() * factor:g}"}

    yield shade
    base._registry.pop("shade", None)


@settings(deadline=None)
@given(task=identifiers, params=few)
@example(task="resize", params=SIZE)
@example(task="a__b", params={"n": 1})
@example(task="größe", params={"text": 'ü\n"\0'})
def test_a_name_tells_task_and_parameters(task, params):
    try:
        name = name_of(task, params)
    except ConfigError:
        assert len(json.dumps(params, ensure_ascii=False).encode()) > 70
        return
    assert name.isidentifier()
    assert len(name.encode()) <= MAX_NBYTES
    back = parse(name)
    assert back == (task, params)
    assert {key: type(value) for key, value in back[1].items()} == {
        key: type(value) for key, value in params.items()
    }
    assert name_of(*back) == name
    assert base_of(name) == task


def test_order_makes_no_difference_and_types_do():
    assert name_of("resize", SIZE) == name_of("resize", dict(reversed(SIZE.items())))
    names = {name_of("t", {"n": value}) for value in (1, 1.0, True, "1")}
    assert len(names) == 4


def test_a_name_stays_what_it_was():
    # Names are in plans and records: another form of them would be another task.
    assert name_of("resize", SIZE) == RESIZE
    assert parse(RESIZE) == ("resize", SIZE)


@settings(deadline=None)
@given(name=st.one_of(st.text(), st.from_regex(r"[a-z]{1,5}__[0-9a-v]{0,60}", fullmatch=True)))
@example(name="resize__" + code([1]))
@example(name="resize__" + code({}))
@example(name="resize__" + code({"width": None}))
@example(name="resize__" + code({"width": {"deep": 1}}))
@example(name="resize__" + code({"width": 320}).upper())
@example(name="resize__" + code({"not an identifier": 1}))
@example(name="resize__" + "0" * 4000)
@example(name="__")
@example(name="resize__\ud800")
@example(name="resize__ſ")
def test_what_is_no_name_of_ours_is_a_name_without_parameters(name):
    task, params = parse(name)
    if params:
        assert name_of(task, params) == name
    else:
        assert task == name
    assert label(name)[: len(task)] == task


def test_json_in_another_form_is_none_of_ours():
    for text in ('{"b":1,"a":2}', '{"a": 1}', '{"a":1,"a":1}', '{"a":1e0}', '{"a":NaN}', "[" * 70):
        coded = base64.b32hexencode(text.encode()).decode().rstrip("=").lower()
        assert parse(f"resize__{coded}") == (f"resize__{coded}", {}), text
    utf16 = base64.b32hexencode('{"a":1}'.encode("utf-16")).decode().rstrip("=").lower()
    assert parse(f"resize__{utf16}")[1] == {}


@pytest.mark.parametrize(
    ("task", "params", "message"),
    [
        ("not one", SIZE, "task name 'not one' is not an identifier without parameters"),
        ("a.b", {}, "task name 'a.b' is not an identifier without parameters"),
        ("t", {"a b": 1}, "t: parameter name 'a b' is not an identifier"),
        ("t", {"a": None}, "t: parameter a is None, expected true, false, a number or text"),
        ("t", {"a": [1]}, "t: parameter a is [1], expected true, false, a number or text"),
        ("t", {"a": float("inf")}, "t: parameter a is inf, expected true, false, a number or text"),
        ("t", {"a": 1 << 60}, f"t: parameter a is {1 << 60}, "
         "expected true, false, a number or text"),
        ("t", {"a": "\ud800"}, "t: a parameter holds no valid text"),
        ("t", {f"p{n}": n for n in range(17)}, "t: 17 parameters exceed 16"),
        ("t", {"a": "x" * 200}, "t: name with parameters of 336 bytes exceeds 200"),
    ],
)  # fmt: skip
def test_what_cannot_stand_in_a_name_is_refused(task, params, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        name_of(task, params)


def test_a_name_with_parameters_gets_no_more():
    with pytest.raises(ConfigError, match=r"is not an identifier without parameters$"):
        name_of(name_of("resize", SIZE), {"quality": 3})


def test_people_read_the_parameters():
    assert label(name_of("resize", SIZE)) == "resize(height=240, width=320)"
    name = name_of("t", {"on": True, "share": 0.5, "text": 'a "b"'})
    assert label(name) == r"""t(on=true, share=0.5, text="a \"b\"")"""
    assert label(name_of("t", {"text": "ü\x9b\x1b[2J\u202e"})) == (
        r"""t(text="ü\u009b\u001b[2J\u202e")"""
    )
    assert label("face_detection") == "face_detection"


def test_the_longest_name_fits_wherever_names_go():
    name = name_of("t" * 20, {"a": "x" * 103})
    assert len(name) == MAX_NBYTES
    hop = codec.Hop(name, "ipc:///tmp/x")
    part = codec.Envelope("job", "stream", (hop,)).seal(codec.native_header.Header())
    assert codec.decode_head([part]).route == (hop,)
    for message in (
        messages.CreditWanted("job", name, 1),
        messages.Hello(f"{name}-1000000", "token", 1),
        messages.Batch(1, [part], {"job": json.dumps({"flow": [name]}).encode()}),
    ):
        assert messages.decode(messages.encode(message)) == message
    assert Graph.from_dag(Graph.chain(name).to_dag()).tasks == (name,)


def test_a_task_is_found_and_loaded_by_its_name_alone(shade):
    import numpy as np

    name = name_of("shade", {"factor": 2})
    assert tasks.find(name) is tasks.find("shade")
    assert tasks.find(name).signature.inputs == {"image"}
    assert tasks.parameters(name)["factor"].default == 0.5
    picture = np.full((2, 2, 3), 10, np.uint8)
    for task, options, found in (
        (name, None, "grey 20"),
        ("shade", None, "grey 5"),
        ("shade", TaskOptions(params={"name": "blue"}), "blue 5"),
        (name, TaskOptions(params={"factor": 1.0, "name": "blue"}), "blue 20"),
    ):
        loaded = tasks.load(task, options)
        assert loaded.process([{"image": picture}]) == [{"shade": found}]
        loaded.close()


def test_two_of_the_same_are_told_apart(shade):
    one, two = (name_of("shade", {"instance": number}) for number in (1, 2))
    assert one != two
    assert tasks.find(one) is tasks.find(two)
    tasks.load(one).close()
    tasks.load(name_of("resize", {**SIZE, "instance": 3, "session": 9})).close()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"factor": "2"}, "shade: parameter factor is '2', expected a number of 0 to 4"),
        ({"factor": True}, "shade: parameter factor is True, expected a number of 0 to 4"),
        ({"factor": 4.5}, "shade: parameter factor is 4.5, expected a number of 0 to 4"),
        ({"name": 3}, "shade: parameter name is 3, expected a text of at most 120 characters"),
        ({"colour": 3}, "shade has no parameter 'colour', it takes factor, name"),
        ({"instance": -1}, "shade: parameter instance is -1, "
         "expected a whole number of 0 to 2147483648"),
    ],
)  # fmt: skip
def test_a_parameter_that_a_task_has_not_is_refused_before_anything_loads(shade, params, message):
    name = name_of("shade", params)
    for use in (tasks.find, tasks.load, lambda each: tasks.signatures([each])):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            use(name)


def test_a_task_without_parameters_takes_none():
    with pytest.raises(ConfigError, match=r"^yolo has no parameter 'n', it takes none$"):
        tasks.find(name_of("yolo", {"n": 1}))
    with pytest.raises(ConfigError, match=r"^yolo has no parameter 'n', it takes none$"):
        tasks.load("yolo", TaskOptions(params={"n": 1}))


@pytest.mark.parametrize("name", ["nobody", "nobody__" + code({"n": 1}), "resize__", "resize__zz"])
def test_a_name_that_stands_for_nothing_is_an_unknown_task(name):
    with pytest.raises(
        GraphError, match=rf"^unknown task '{name}': expected one of .*car_detection, "
    ):
        tasks.find(name)
    assert name not in tasks.signatures([name])


def test_a_graph_is_checked_with_such_names(shade):
    resize = name_of("resize", SIZE)
    shaded = name_of("shade", {"factor": 2.0})
    graph = Graph.chain(resize, shaded).check(tasks.signatures([resize, shaded]))
    assert [str(edge) for edge in graph.edges[shaded]] == [f"{resize}.image"]


def test_handler_types_are_no_analyses():
    assert set(tasks.handler_names()).isdisjoint(tasks.names())
    assert set(tasks.signatures()) == set(tasks.names())
    assert {"resize", "render", "draw_boxes"} < set(tasks.handler_names())
    with pytest.raises(ConfigError, match=r"^task resize is registered already$"):
        tasks.register("resize", tasks.find("resize"))


def test_a_name_that_carries_parameters_cannot_be_registered():
    with pytest.raises(ConfigError, match=r"^task name t\(n=1\) carries parameters$"):
        tasks.register(name_of("t", {"n": 1}), tasks.find("resize"))


def test_a_function_has_the_arguments_that_are_parameters():
    with pytest.raises(ConfigError, match=r"^pale has no argument factor$"):

        @vdag.task(outputs=["x"], params={"factor": 1})
        def pale(image):
            return {"x": image}


def test_options_with_parameters_reach_a_worker_process():
    options = TaskOptions(params={"a": 1, "b": 1.0, "c": True, "d": "x"})
    settings = WorkerSettings(
        worker="w", task="t", token="t", exchange="e", address="a", arena="r", parent=1,
        options=options, models={0: options},
    )  # fmt: skip
    back = WorkerSettings.decode(settings.encode())
    assert back == settings
    assert {key: type(value) for key, value in back.options.params.items()} == {
        "a": int, "b": float, "c": bool, "d": str,
    }  # fmt: skip
    assert hash(options) == hash(TaskOptions())  # as with any, equality decides


def test_the_models_of_a_task_are_its_own_whatever_its_parameters():
    name = name_of("detect_faces", {"min_size": 40})
    assert list(variants(name, TaskOptions())) == list(variants("face_detection", TaskOptions()))
    assert list(variants(name_of("resize", SIZE), TaskOptions())) == [0]


def test_every_declared_default_is_one_that_may_be_given():
    for name in tasks.handler_names():
        declared = tasks.parameters(name)
        defaults = {key: param.default for key, param in declared.items()}
        assert check(name, declared, defaults) == defaults


def test_looking_at_handlers_loads_nothing_heavy():
    script = (
        "from vdag import tasks\n"
        "from vdag.tasks.handlers import graph_of\n"
        "tasks.signatures(tasks.handler_names())\n"
        "import sys\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(vdag.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = set(process.stdout.split())
    assert loaded.isdisjoint({"av", "cv2", "onnx", "onnxruntime", "tensorrt", "zmq", "psutil"})
