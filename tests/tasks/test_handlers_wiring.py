"""Services as graphs: what becomes of handlers, links and parameters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag import tasks
from vdag.control.coordination.types import HANDLER_TYPES, with_defaults
from vdag.errors import ConfigError, GraphError
from vdag.tasks.handlers import HandlerSpec, LinkSpec, graph_of, task_of
from vdag.tasks.handlers.kinds import KINDS, USUAL
from vdag.tasks.naming import label, name_of, parse

GENERATOR = "SingleFrameGenerator"


def service(*kinds, links=None, **params):
    """A chain of handlers of these types, or as `links` say; `h3={...}` are handler 3's."""
    handlers = [
        HandlerSpec(number, kind, params.get(f"h{number}", {})) for number, kind in enumerate(kinds)
    ]
    pairs = links or [(number, number + 1, 0) for number in range(len(kinds) - 1)]
    return handlers, [LinkSpec(source, 0, target, port) for source, target, port in pairs]


def edges_of(wiring, number):
    return {edge.name: str(edge) for edge in wiring.graph.edges[wiring.tasks[number]]}


def check(wiring):
    """Hold the graph against what the tasks take and give; it has left nothing out."""
    assert wiring.graph.check(tasks.signatures(wiring.graph.tasks)) == wiring.graph


@pytest.mark.parametrize(
    ("kind", "params", "readable"),
    [
        (3, {}, "render"),
        (3, {"fps": 0, "to": "window"}, "render"),
        (3, {"fps": 30, "to": "out.mp4"}, 'render(fps=30, to="out.mp4")'),
        (4, {"width": 320}, "resize(width=320)"),
        (4, {"width": 640, "height": 480}, "resize"),
        (5, {"quality": 50}, "encode(quality=50)"),
        (6, {}, "decode"),
        (7, {}, "detect_objects"),
        (7, {"targets": ["person", "car"], "config": "yolov3-512.cfg", "nms": 0.3, "gpu": True},
         'detect_objects(targets="person,car")'),
        (8, {}, "detect_faces(min_size=20)"),
        (8, {"min_size": 0, "scale_factor": 1.2}, "detect_faces"),
        (9, {"upsample": 2, "multiple": False}, "detect_faces(multiple=false)"),
        (10, {}, "detect_faces(thresh=0.5)"),
        (10, {"tresh": 0.75, "with_crop": False}, "detect_faces(thresh=0.75, with_crop=false)"),
        (11, {"indices": "OUTER_EYES_AND_NOSE"}, "align"),
        (12, {"gpu_memory_frac": None}, "detect_faces(dim=160)"),
        (13, {"task": "staff"}, 'recognise(task="staff")'),
        (14, {"model": "nn4.small2.v1.t7", "tresh": 0.5}, "recognise"),
        (7, {"task": "my_detector"}, "my_detector"),
        (16, {}, "draw_boxes"),
        (17, {}, "draw_labeled_boxes"),
    ],
)  # fmt: skip
def test_a_documented_handler_is_this_task(kind, params, readable):
    name = task_of(kind, params)
    assert label(name) == readable
    if kind != 7 or "task" not in params:
        tasks.find(name)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_what_moves_frames_is_no_task(kind):
    assert task_of(kind, {"port": 9002}) is None


@pytest.mark.parametrize("kind", [-1, 18])
def test_a_type_that_is_not_documented_is_refused(kind):
    with pytest.raises(ConfigError, match=rf"^handler type {kind} is not between 0 and 17$"):
        task_of(kind, {})


def test_the_usual_parameters_are_the_tasks_defaults():
    for task, usual in USUAL.items():
        declared = tasks.parameters(task)
        assert {name: param.default for name, param in declared.items()} == usual
        assert all(type(declared[name].default) is type(value) for name, value in usual.items())
    for kind in KINDS.values():
        if kind.task:
            assert set(kind.params.values()) <= set(tasks.parameters(kind.task))


def test_services_may_say_of_a_type_what_its_task_understands():
    assert HANDLER_TYPES.keys() == KINDS.keys()
    for number, kind in HANDLER_TYPES.items():
        ours = KINDS[number]
        if ours.task:
            assert (kind.inputs, kind.outputs) == (len(ours.takes), bool(ours.gives))
        assert set(ours.params) <= set(kind.params)
        # What is left out is what a service would have written.
        assert task_of(number, with_defaults(kind, {})) == task_of(number, {})


def test_the_documents_offload_service_is_a_graph():
    # 0 capture feeds 1 encode and 8 draw; 4 decode, 5 detect objects, 9 render.
    handlers = [
        HandlerSpec(0, 2, {"source": 0, "fps": 20, "width": 640, "height": 480}),
        HandlerSpec(1, 5, {"quality": 80}),
        HandlerSpec(4, 6),
        HandlerSpec(5, 7, {"config": "yolov3-512.cfg", "targets": ["person"]}),
        HandlerSpec(8, 17),
        HandlerSpec(9, 3),
    ]
    links = [(0, 1, 0), (1, 4, 0), (4, 5, 0), (0, 8, 0), (5, 8, 1), (8, 9, 0)]
    wiring = graph_of(handlers, [LinkSpec(a, 0, b, port) for a, b, port in links])
    assert wiring.capture == 0
    assert wiring.source == {"source": 0, "fps": 20, "width": 640, "height": 480}
    detect = name_of("detect_objects", {"targets": "person"})
    assert wiring.tasks == {
        1: "encode",
        4: "decode",
        5: detect,
        8: "draw_labeled_boxes",
        9: name_of("render", {"fps": 20}),  # the capture's
    }
    assert edges_of(wiring, 1) == {"image": f"{GENERATOR}.image"}
    assert edges_of(wiring, 4) == {"jpeg": "encode.jpeg"}
    assert edges_of(wiring, 5) == {"image": "decode.image"}
    assert edges_of(wiring, 8) == {"image": f"{GENERATOR}.image", "boxes": f"{detect}.boxes"}
    assert edges_of(wiring, 9) == {"image": "draw_labeled_boxes.image", "seq": f"{GENERATOR}.seq"}
    check(wiring)


def test_boxes_of_the_frame_bring_no_crops_with_them():
    wiring = graph_of(*service(2, 9, 13))
    assert edges_of(wiring, 2) == {
        "boxes": "detect_faces.boxes",
        "image": f"{GENERATOR}.image",
    }
    check(wiring)


def test_boxes_of_a_picture_that_is_elsewhere_bring_their_crops():
    wiring = graph_of(*service(2, 4, 9, 13))
    assert edges_of(wiring, 3) == {
        "boxes": "detect_faces.boxes",
        "crops": "detect_faces.crops",
    }
    check(wiring)
    without = graph_of(*service(2, 4, 9, 13, h2={"with_crop": False}))
    assert edges_of(without, 3)["image"] == "resize.image"
    assert "crops" not in edges_of(without, 3)
    check(without)


@pytest.mark.parametrize("kind", [11, 12])
def test_faces_that_were_turned_upright_go_on_as_they_are(kind):
    wiring = graph_of(*service(2, 9, kind, 13, 15))
    turned = wiring.tasks[2]
    assert edges_of(wiring, 3) == {"boxes": f"{turned}.boxes", "crops": f"{turned}.crops"}
    # What the first has recognised is looked at again, not what is in the frame.
    again = wiring.tasks[3]
    assert edges_of(wiring, 4) == {"boxes": f"{again}.boxes", "crops": f"{again}.crops"}
    check(wiring)


def test_two_of_the_same_are_two_tasks():
    handlers, links = service(2, 4, 4, 5, links=[(0, 1, 0), (0, 2, 0), (1, 3, 0)])
    wiring = graph_of(handlers, links)
    assert wiring.tasks[1] == name_of("resize", {"instance": 1})
    assert wiring.tasks[2] == name_of("resize", {"instance": 2})
    assert edges_of(wiring, 3) == {"image": f"{wiring.tasks[1]}.image"}
    check(wiring)


def test_sessions_share_what_keeps_nothing_and_render_apart():
    one, two = (graph_of(*service(2, 4, 3), session=session) for session in (1, 2))
    assert one.tasks[1] == two.tasks[1]
    assert one.tasks[2] != two.tasks[2]
    assert label(one.tasks[2]) == "render(session=1)"
    check(one)


def test_a_service_that_only_shows_what_it_captures_is_one():
    wiring = graph_of(*service(2, 3, h0={"fps": 30}))
    assert [label(task) for task in wiring.graph.tasks] == ["render(fps=30)"]
    check(wiring)


def test_a_type_of_ones_own_takes_and_gives_what_is_wanted_of_it():
    handlers = [
        HandlerSpec(0, 2), HandlerSpec(1, 40, {}, "smile"), HandlerSpec(2, 16), HandlerSpec(3, 13),
    ]  # fmt: skip
    links = [LinkSpec(0, 0, 1, 0), LinkSpec(0, 0, 2, 0), LinkSpec(1, 0, 2, 1), LinkSpec(1, 0, 3, 0)]
    wiring = graph_of(handlers, links)
    assert edges_of(wiring, 1) == {"image": f"{GENERATOR}.image"}
    assert edges_of(wiring, 2) == {"image": f"{GENERATOR}.image", "boxes": "smile.boxes"}
    assert edges_of(wiring, 3) == {"image": "smile.image"}


def test_a_type_of_ones_own_has_its_parameters():
    params = {"radius": 5, "names": ["a", "b"], "nothing": None}
    wiring = graph_of([HandlerSpec(0, 2), HandlerSpec(1, 18, params, "blur")],
                      [LinkSpec(0, 0, 1, 0)])  # fmt: skip
    assert wiring.tasks == {1: name_of("blur", {"radius": 5, "names": "a,b"})}


def test_another_task_may_do_what_is_documented():
    handlers = [HandlerSpec(0, 2), HandlerSpec(1, 4, {"width": 5}, "my_resize"),
                HandlerSpec(2, 3, {}, "my_screen")]  # fmt: skip
    wiring = graph_of(handlers, [LinkSpec(0, 0, 1, 0), LinkSpec(1, 0, 2, 0)])
    assert wiring.tasks == {1: "my_resize", 2: "my_screen"}
    assert edges_of(wiring, 2) == {"image": "my_resize.image"}


def test_a_task_of_ones_own_stands_in_for_a_finder():
    wiring = graph_of(*service(2, 8, 13, h1={"task": "my_faces"}))
    assert wiring.tasks[1] == "my_faces"
    assert edges_of(wiring, 2) == {"boxes": "my_faces.boxes", "image": f"{GENERATOR}.image"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (service(4, 5), "a session has one capture, the service has none"),
        (service(2, 2, links=[(0, 1, 0)]), "a session has one capture, the service has 0 and 1"),
        (service(2, links=[(0, 0, 0)]), "the service has no handler but its capture"),
        (service(2, 0), "handler 1 tx is no task: leave it out, and link what it connects"),
        (service(2, 6), "handler 1 decode: input 0 takes jpeg, handler 0 capture gives picture"),
        (service(2, 5, 9), "handler 2 detect_faces: input 0 takes picture or boxes, "
         "handler 1 encode gives jpeg"),
        (service(2, 3, 4), "handler 2 resize: input 0 takes picture, handler 1 render gives "
         "nothing"),
        (service(2, 16), "handler 1 draw_boxes: input 1 has no link"),
        (service(2, 4, links=[(0, 1, 1)]), "handler 1 resize has no input 1"),
        (service(2, 4, links=[(0, 1, 0), (0, 1, 0)]), "handler 1 resize: input 0 has two links"),
        (service(2, 4, links=[(0, 9, 0)]), "a link names handler 9, which the service has not"),
        (service(2, 4, links=[(1, 0, 0)]), "handler 0 capture takes nothing from there"),
        (service(2, 4, links=[(1, 1, 0)]), "handler 1 resize takes nothing from there"),
        (service(2, 4, 4, h1={"width": 2}, links=[(1, 2, 0), (2, 1, 0)]), "cycle"),
        (([HandlerSpec(0, 2), HandlerSpec(0, 4)], []), "handler 0 is there twice"),
        (([HandlerSpec(0, 2), HandlerSpec(1, 4)], [LinkSpec(0, 1, 1, 0)]),
         "handler 0 capture has no output 1"),
    ],
)  # fmt: skip
def test_a_service_that_is_no_graph_is_refused(given, message):
    with pytest.raises(
        GraphError, match=f"^{re.escape(message)}" + ("" if message == "cycle" else "$")
    ):
        graph_of(*given)


def test_a_type_without_a_task_is_refused():
    with pytest.raises(ConfigError, match=r"^handler 1: type 40 has no task$"):
        graph_of([HandlerSpec(0, 2), HandlerSpec(1, 40)], [])


@settings(deadline=None)
@given(kinds=st.lists(st.sampled_from([4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 3]), max_size=8),
       seed=st.randoms())  # fmt: skip
def test_whatever_is_wired_fits_the_tasks(kinds, seed):
    handlers = [HandlerSpec(0, 2), *(HandlerSpec(n, kind) for n, kind in enumerate(kinds, 1))]
    links = [
        LinkSpec(seed.randrange(spec.handler_id), 0, spec.handler_id, port)
        for spec in handlers[1:]
        for port in range(len(KINDS[spec.kind].takes))
    ]
    try:
        wiring = graph_of(handlers, links)
    except GraphError:
        return
    check(wiring)
    assert set(wiring.tasks) == set(range(1, len(handlers)))
    assert all(parse(name)[0] in tasks.handler_names() for name in wiring.tasks.values())
